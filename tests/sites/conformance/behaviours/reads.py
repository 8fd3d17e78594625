"""Ways to read a stream, each a function from it to the pieces read. The tests do the same to an io.BytesIO."""

READS = {
    "read()": lambda s: [s.read()],
    "read(5)": lambda s: [s.read(5)],
    "read(7) until empty": lambda s: [*iter(lambda: s.read(7), b"")],
    "readline()": lambda s: [*iter(s.readline, b"")],
    "readline(3)": lambda s: [*iter(lambda: s.readline(3), b"")],
    "readlines()": lambda s: s.readlines(),
    "readlines(9)": lambda s: [b"".join([*s.readlines(9), *s.readlines()])],  # the hint may be ignored
    "for line in input": lambda s: [*s],
    "past the end": lambda s: [s.read(), s.read(), s.read(5), s.read(-1), s.readline(), *s.readlines(), *s, s.read()],
    "line past the end": lambda s: [*s, s.readline(), s.readline(4), s.read(1), *s],
    "read(10**6)": lambda s: [s.read(10**6)],
    "mixed": lambda s: [s.read(3), s.readline(), s.readline(2), s.read(0), next(iter(s), b"end"), s.read(4), s.read()],
    "read(0)": lambda s: [s.read(0), s.read(0), s.read()],
    "read(-1)": lambda s: [s.read(-1), s.read(-1)],
    "readline(0), readline(-1)": lambda s: [s.readline(0), s.readline(-1), s.read()],
}
