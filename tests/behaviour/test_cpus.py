"""ATRIO_WORKERS=auto: as many workers as CPUs are granted, and one line that tells why."""

import os
from contextlib import contextmanager
from pathlib import Path

import pytest

from behaviour.support import records, site, started_by
from harness import Atrio, eventually

CPUS = os.sched_getaffinity(0)
CGROUPS = Path("/sys/fs/cgroup")


@contextmanager
def limited(folder, quota):
    """Servers within run in a cgroup with so many thousandths of a CPU."""
    version_1 = CGROUPS / "cpu"
    group = (version_1 if version_1.is_dir() else CGROUPS) / f"atrio-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    try:
        if version_1.is_dir():
            (group / "cpu.cfs_period_us").write_text("100000")
            (group / "cpu.cfs_quota_us").write_text(f"{quota * 100}")
        elif (group / "cpu.max").exists():
            (group / "cpu.max").write_text(f"{quota * 100} 100000")
        else:
            pytest.skip("the cgroup has no cpu controller here")
        with started_by(folder, f'#!/bin/sh\necho $$ >{group}/cgroup.procs && exec "BINARY" "$@"\n'):
            yield
    finally:
        eventually(lambda: not (group / "cgroup.procs").read_text(), what="the end of all processes of the cgroup")
        group.rmdir()


def reason(server):
    """What it says of the number of workers."""
    (line,) = [r["message"] for r in records(server.log()) if "ATRIO_WORKERS sets another number" in r["message"]]
    return line


OUTSIDE = pytest.mark.binary("a container has limits of its own; tests/image has them")


@OUTSIDE
@pytest.mark.parametrize("count", [1, len(CPUS)])
def test_the_cpus_that_it_may_run_on_count(tmp_path, count):
    chosen = ",".join(map(str, sorted(CPUS)[:count]))
    with (
        started_by(tmp_path, f'#!/bin/sh\nexec taskset -c {chosen} "BINARY" "$@"\n'),
        Atrio(site(tmp_path / "site"), workers="auto") as server,
    ):
        assert len(server.workers()) == count
        assert reason(server).startswith(f"{count} worker")


@OUTSIDE
@pytest.mark.parametrize(("quota", "shown", "workers"), [(200, "0.2", 1), (1500, "1.5", 2)])
def test_a_quota_of_the_cgroup_counts_and_is_rounded_up(tmp_path, quota, shown, workers):
    if len(CPUS) < workers:
        pytest.skip("too few CPUs here to tell rounding up from down")
    with limited(tmp_path, quota), Atrio(site(tmp_path / "site"), workers="auto") as server:
        assert len(server.workers()) == workers
        word = "worker" if workers == 1 else "workers"
        assert reason(server).startswith(f"{workers} {word}: the cgroup grants {shown} of {len(CPUS)} CPU")


def test_a_number_that_was_given_needs_no_reason(tmp_path):
    with Atrio(site(tmp_path), workers=2) as server:
        assert "ATRIO_WORKERS" not in server.log()
