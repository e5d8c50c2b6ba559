// graphile-worker, as benches/queues.rs drives it: `queue JOBS` creates the schema and jobs, `drain WORKERS
// CONNECTIONS` runs all jobs, `work` prints when it starts each new job. PGHOST and its like name the database.

import { EventEmitter } from "node:events";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const installed = createRequire(new URL("../../.deps/queues/", import.meta.url));
const load = async (name) => import(pathToFileURL(installed.resolve(name)));
const { makeWorkerUtils, run, runOnce } = await load("graphile-worker");
const { default: pg } = await load("pg");

async function queue(jobs) {
  const utils = await makeWorkerUtils({});
  await utils.migrate();
  await utils.addJobs(Array.from({ length: jobs }, () => ({ identifier: "nothing" })));
  await utils.release();
}

async function drain(workers, connections) {
  const pgPool = new pg.Pool({ max: connections });
  const clients = await Promise.all(Array.from({ length: connections }, () => pgPool.connect()));
  clients.forEach((client) => client.release());
  let done = 0;
  const taskList = { nothing: () => void (done += 1) };
  const began = performance.now();
  await runOnce({ pgPool, concurrency: workers, taskList });
  const seconds = (performance.now() - began) / 1000;
  console.log(JSON.stringify({ seconds, done }));
  await pgPool.end();
}

// Date.now() has only millisecond resolution.
function now() {
  const milliseconds = performance.timeOrigin + performance.now();
  const apart = milliseconds - Date.now();
  if (apart < -0.5 || apart > 1.5) throw new Error(`the two clocks are ${apart} ms apart`);
  return Math.round(milliseconds * 1000);
}

async function work() {
  const taskList = { nothing: () => console.log(now()) };
  const runner = await run({ concurrency: 1, taskList, events: new EventEmitter() });
  await runner.promise;
}

const [mode, ...numbers] = process.argv.slice(2);
await { queue, drain, work }[mode](...numbers.map(Number));
