"""One job watched by many: how far apart they hear of the same event."""

from __future__ import annotations

from tests.bench.kit import Lab, dance
from tests.bench.table import Row, ms_of
from tests.bench.watch import watching


def rows(lab: Lab) -> list[Row]:
    """From the first to the last watcher getting an event, for many watchers and for two."""
    with lab.engine("--step-seconds", "0.05") as engine, lab.gateway(engine.url) as served:
        body = dance(served.uploads())
        served.succeeded([served.submit(body)])
        delays: dict[int, list[float]] = {}
        for watchers in (lab.sizes.watchers, 2):
            delays[watchers] = []
            for _ in range(lab.sizes.repeats):
                served.json("POST", "/v1/system/drain")
                job_id = served.submit(body)
                path = f"/v1/jobs/{job_id}/events"
                with watching(served.url, path, watchers=watchers) as them:
                    served.json("POST", "/v1/system/resume")
                    served.succeeded([job_id])
                    arrivals = them.arrivals()
                whole = [times for times in arrivals.values() if len(times) == watchers]
                assert len(whole) == len(arrivals), "every watcher gets every event"
                delays[watchers] += [max(times) - min(times) for times in whole]
    return [
        Row(
            name=f"an event to {lab.sizes.watchers} watchers of one job, first to last",
            figure=ms_of(delays[lab.sizes.watchers]),
            versus="2 watchers",
            versus_figure=ms_of(delays[2]),
            note="Stored events, which all have an id; the watchers are one process, whose reading "
            "is part of the figure.",
        )
    ]
