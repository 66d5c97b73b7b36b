"""The benchmark, `make bench`: real processes, each figure beside what it compares with."""
