"""procrastinate, as benches/queues.rs drives it: `queue JOBS` creates the schema and jobs, `drain WORKERS CONNECTIONS`
runs all jobs, `work` prints when it starts each new job. PGHOST and its like name the database."""

import asyncio
import json
import sys
import time

import procrastinate


def app_with(task, **pool):
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(**pool))
    return app, app.task(name="nothing")(task)


async def queue(jobs):
    async def nothing():
        pass

    app, task = app_with(nothing)
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        await task.batch_defer_async(*[{} for _ in range(jobs)])


async def drain(workers, connections):
    done = 0

    async def nothing():
        nonlocal done
        done += 1

    app, _ = app_with(nothing, min_size=connections, max_size=connections)
    async with app.open_async():
        began = time.perf_counter()
        await app.run_worker_async(concurrency=workers, wait=False)
        seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "done": done}))


async def work():
    async def nothing():
        print(time.time_ns() // 1000, flush=True)

    app, _ = app_with(nothing)
    async with app.open_async():
        await app.run_worker_async(concurrency=1)


mode, *numbers = sys.argv[1:]
asyncio.run({"queue": queue, "drain": drain, "work": work}[mode](*map(int, numbers)))
