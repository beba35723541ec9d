"""Long experiments that attack, break and wear out the server, and print their measurements.

`python -m tests.campaign` lists them; `python -m tests.campaign NAME --help` shows the options. Each is a module here
with a function `main(arguments)` that returns an exit status: 0 if every promise held. They are bounded, use only
loopback, and end by themselves. The test suite does not run them; it runs small versions of the same checks.

    python -m tests.campaign attacks --quick                    floods before sign-in and after it
    python -m tests.campaign faults --quick                     kills, stops, disks, PostgreSQL, networks, clocks
    python -m tests.campaign faults --quick --database postgresql --area postgresql
    python -m tests.campaign cluster --quick                    several nodes: kills, removals, partitions, Redis
    python -m tests.campaign soak --minutes 10                  memory, descriptors, threads, tasks
    python -m tests.campaign stampede                           2,000 clients that reconnect at the same time

Without `--quick` they run in full size, which takes hours for `faults`. `--area NAME` and `--only TEXT`
choose checks, `--list` names them, `--seed N` repeats the random choices, `--json FILE` writes the
figures. Each row of the table is one promise: the number of tries, the expected and the observed outcome, and
whether it was kept. Status 1 says that a promise was broken, 2 that a check itself failed.

They judge from outside. A server is a process of its own; a campaign observes it over the wire and through the
operating system: processor time, memory, descriptors. Costs and waits are counted in the server's processor
time, so other work on the machine does not matter. `tests.crash.checker` judges the histories of clients.

Some checks need more than a checkout: root (a full disk, immutable files, a silent database), `libfaketime`
(clocks), or the JavaScript clients (`make tests/js/node_modules/.installed`). Without it they are skipped, and the
table says why.
"""
