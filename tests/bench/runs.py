"""What there is to measure, and how it is told. Each has its cases, a text for the terminal and, if it belongs there, for the README."""

from . import loads
from .measure import Case
from .servers import SERVERS
from .tables import aligned, markdown, number, ratio, spread

COLUMNS = ["CPU µs", "Atrio/it", "req/s", "Atrio/it", "p50 ms", "p99 ms", "PSS MiB", "errors"]


class Peers:
    """The loads, one worker."""

    def __init__(self, servers, chosen):
        self.loads = [loads.LOADS[name] for name in chosen]
        self.cases = [Case(name, tuple(self.loads)) for name in servers]
        self.atrio = next((case for case in self.cases if case.server == "atrio"), None)

    def text(self, figures):
        return "\n\n".join(self.table(figures, load) for load in self.loads)

    def table(self, figures, load):
        rows = [[load.what, *COLUMNS]]
        for case in self.cases:
            cpu, rate, p50, p99, pss = (
                number(figures.median(case, load, name)) for name in ("cpu", "rate", "p50", "p99", "pss")
            )
            cpu_ratio, rate_ratio = (spread(self.ratios(figures, case, load, name)) for name in ("cpu", "rate"))
            rows.append([case.server, cpu, cpu_ratio, rate, rate_ratio, p50, p99, pss, figures.errors(case, load)])
        return aligned(rows)

    def ratios(self, figures, case, load, name):
        return [] if self.atrio in (None, case) else figures.ratios(self.atrio, case, load, name)

    def readme(self, figures):
        titles = [SERVERS[case.server].title for case in self.cases]
        costs, rates, notes = [["CPU µs a request", *titles]], [["requests/s, p99 ms", *titles]], []
        for load in self.loads:
            cost, rate = [load.what], [load.what]
            for case in self.cases:
                ratios = self.ratios(figures, case, load, "cpu")
                cpu, per_second, p99 = (number(figures.median(case, load, name)) for name in ("cpu", "rate", "p99"))
                cost.append(f"{cpu} ({ratio(ratios)})" if ratios else cpu)
                rate.append("—" if per_second == "—" else f"{per_second}, {p99}")
                if (errors := figures.errors(case, load)) and not SERVERS[case.server].cannot(load):
                    notes.append(f"- {SERVERS[case.server].title}, {load.what}: {errors}")
            costs.append(cost)
            rates.append(rate)
        told = [markdown(costs), "In brackets: Atrio's cost to that server's.", markdown(rates)]
        if notes:
            told += ["What went wrong, in all rounds together:", "\n".join(notes)]
        return "\n\n".join(told)


class Memory:
    """Four workers of a site with much to import."""

    WORKERS = 4

    def __init__(self, servers):
        names = [name for name in servers if SERVERS[name].forks]
        # On all processors, so that every worker gets its part of the requests.
        self.cases = [
            Case(name, tuple(loads.FRAMEWORKS), "frameworks", workers=self.WORKERS, pinned=False) for name in names
        ]

    def rows(self, figures):
        last = loads.FRAMEWORKS[-1]
        atrio = next((case for case in self.cases if case.server == "atrio"), None)
        for case in self.cases:
            ratios = [] if atrio in (None, case) else figures.ratios(atrio, case, last, "pss")
            yield case, number(figures.median(case, last, "pss")), ratios, figures.errors(case, last)

    def text(self, figures):
        rows = [[f"{self.WORKERS} workers, Django and Flask imported", "PSS MiB", "Atrio/it", "errors"]]
        rows += [[case.server, pss, spread(ratios), errors] for case, pss, ratios, errors in self.rows(figures)]
        return aligned(rows)

    def readme(self, figures):
        told = [
            f"{SERVERS[case.server].title} {pss}" + (f" ({ratio(ratios)})" if ratios else "")
            for case, pss, ratios, _ in self.rows(figures)
        ]
        return f"Memory of {self.WORKERS} workers with Django and Flask imported, MiB of PSS: {', '.join(told)}."


class Cores:
    """What a second worker gains where sites compute and no processor is withheld."""

    def __init__(self, servers):
        self.pairs = [
            [Case(name, (loads.CPU,), workers=workers, pinned=False) for workers in (1, 2)]
            for name in servers
            if SERVERS[name].forks
        ]
        self.cases = [case for pair in self.pairs for case in pair]

    def text(self, figures):
        rows = [["a site that computes", "1 worker, req/s", "2 workers", "2/1", "errors"]]
        for one, two in self.pairs:
            rates = [number(figures.median(case, loads.CPU, "rate")) for case in (one, two)]
            gain = spread(figures.ratios(two, one, loads.CPU, "rate"))
            rows.append([one.server, *rates, gain, figures.errors(two, loads.CPU)])
        return aligned(rows)

    def readme(self, figures):
        told = [
            f"{SERVERS[one.server].title} {ratio(figures.ratios(two, one, loads.CPU, 'rate'))}"
            for one, two in self.pairs
        ]
        return f"Requests of two workers to those of one, where the site computes: {', '.join(told)}."


class Telling:
    """What it costs to write down and to trace requests, above metrics, which are always on."""

    def __init__(self):
        chosen = tuple(loads.LOADS[name] for name in ("hello", "json"))
        self.quiet, self.telling = self.cases = [Case(name, chosen) for name in ("atrio", "telling")]

    def text(self, figures):
        rows = [["CPU µs", "without", "with", "with/without", "errors"]]
        for load in self.quiet.loads:
            costs = [number(figures.median(case, load, "cpu")) for case in self.cases]
            ratios = spread(figures.ratios(self.telling, self.quiet, load, "cpu"))
            errors = "; ".join(filter(None, (figures.errors(case, load) for case in self.cases)))
            rows.append([load.what, *costs, ratios, errors])
        return aligned(rows)


class Scaling:
    """How cost grows with connections, workers and bodies."""

    def __init__(self, servers):
        self.servers = [name for name in servers if SERVERS[name].forks]
        self.cases = []
        for name in self.servers:
            self.cases += [self.by_connections(name, workers) for workers in (1, 2)]
            self.cases.append(self.by_size(name))

    @staticmethod
    def by_connections(name, workers):
        return Case(name, tuple(loads.CONNECTIONS), workers=workers)

    @staticmethod
    def by_size(name):
        return Case(name, (*loads.RESPONSES, *loads.UPLOADS))

    def text(self, figures):
        return "\n\n".join(
            table(figures, name) for name in self.servers for table in (self.connections_table, self.sizes_table)
        )

    def connections_table(self, figures, name):
        columns = ["CPU µs", "req/s", "p99 ms", "PSS MiB"]
        rows = [[f"{name}: hello", *(f"{workers}w {column}" for workers in (1, 2) for column in columns), "errors"]]
        for load in loads.CONNECTIONS:
            row, errors = [load.what.partition(", ")[2]], []
            for workers in (1, 2):
                case = self.by_connections(name, workers)
                row += [number(figures.median(case, load, figure)) for figure in ("cpu", "rate", "p99", "pss")]
                errors.append(figures.errors(case, load))
            rows.append([*row, "; ".join(filter(None, errors))])
        return aligned(rows)

    def sizes_table(self, figures, name):
        columns = ["CPU µs", "µs/MiB", "req/s", "PSS MiB"]
        kinds = ("response", "upload")
        rows = [[f"{name}: bodies", *(f"{kind} {column}" for kind in kinds for column in columns), "errors"]]
        case = self.by_size(name)
        for size, *both in zip(loads.SIZES, loads.RESPONSES, loads.UPLOADS, strict=True):
            row, errors = [loads.in_words(size)], []
            for load in both:
                cpu, rate, pss = (figures.median(case, load, figure) for figure in ("cpu", "rate", "pss"))
                row += map(number, (cpu, cpu and cpu * loads.MIB / size, rate, pss))
                errors.append(figures.errors(case, load))
            rows.append([*row, "; ".join(filter(None, errors))])
        return aligned(rows)
