// Orders as virtual objects of Restate, behind the HTTP ingress of its server: server.mjs CLIENTS SECONDS PLAIN.
//
// POST /order/ID/create {data} and POST /order/ID/update {expected, data}. The state of an object is its view. Starts
// the server with an empty folder, says "ready PORT" when it serves orders, and ends it when its own input ends.

import { spawn } from "node:child_process";
import { rmSync } from "node:fs";
import { createServer as createHttp2Server } from "node:http2";
import { createRequire } from "node:module";
import { createServer } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import * as restate from "@restatedev/restate-sdk";

const PARTITIONS = "4";
const READY_WITHIN_MS = 60_000;
const ATTEMPT_MS = 5_000;

// The SDK counts on it, and Node.js has it from version 22 on.
Promise.withResolvers ??= function () {
  let resolve;
  let reject;
  const promise = new this((...settle) => ([resolve, reject] = settle));
  return { promise, resolve, reject };
};

const order = restate.object({
  name: "order",
  handlers: {
    create: async (context, { data }) => {
      if ((await context.get("order")) !== null) throw conflict("the order exists");
      context.set("order", { version: 1, data });
      return 1;
    },
    update: async (context, { expected, data }) => {
      const found = (await context.get("order"))?.version ?? 0;
      if (found !== expected) throw conflict(`expected version ${expected}, found ${found}`);
      context.set("order", { version: found + 1, data });
      return found + 1;
    },
  },
});

function conflict(reason) {
  return new restate.TerminalError(reason, { errorCode: 409 });
}

function listen(server) {
  return new Promise((resolve, reject) => {
    server.on("error", reject);
    server.listen(0, "127.0.0.1", () => resolve(server.address().port));
  });
}

/** Ports that are free now; all are held until all are known, so they differ. */
async function freePorts(count) {
  const held = Array.from({ length: count }, () => createServer());
  const ports = await Promise.all(held.map(listen));
  await Promise.all(held.map((server) => new Promise((closed) => server.close(closed))));
  return ports;
}

/** Tries again until the answer is a good one, since the server starts in pieces; each attempt may have a URL of its own. */
async function post(url, body) {
  const begin = Date.now();
  for (let attempt = 0; ; attempt += 1) {
    const answer = await fetch(url(attempt), {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(ATTEMPT_MS),
    }).catch((error) => ({ ok: false, error }));
    if (answer.ok) return;
    if (Date.now() - begin > READY_WITHIN_MS) {
      throw new Error(`${url(attempt)} does not answer: ${answer.error ?? (await answer.text())}`);
    }
    await sleep(100);
  }
}

/** Tells troubles only: by itself the SDK writes lines about every command, and where "ready" is looked for. */
function log({ level }, ...message) {
  if (level === "warn" || level === "error") console.error(level, ...message);
}

const orders = restate.endpoint().bind(order).setLogger(log);
const endpoint = await listen(createHttp2Server(orders.http2Handler()));
const [ingress, admin, node] = await freePorts(3);

rmSync("data", { recursive: true, force: true });
const program = `@restatedev/restate-server-${process.platform}-${process.arch}/bin/restate-server`;
const server = spawn(createRequire(import.meta.url).resolve(program), ["--no-logo"], {
  stdio: ["ignore", 2, 2],
  env: {
    ...process.env,
    DO_NOT_TRACK: "1",
    RESTATE_DISABLE_TELEMETRY: "true",
    RESTATE_LISTEN_MODE: "tcp",
    RESTATE_NODE_NAME: "peer",
    RESTATE_BASE_DIR: "data",
    RESTATE_DEFAULT_NUM_PARTITIONS: PARTITIONS,
    RESTATE_BIND_ADDRESS: `127.0.0.1:${node}`,
    RESTATE_INGRESS__BIND_ADDRESS: `127.0.0.1:${ingress}`,
    RESTATE_ADMIN__BIND_ADDRESS: `127.0.0.1:${admin}`,
  },
});
// This program lives as long as the server: whoever stops the one stops the other. Its data is not kept.
server.on("exit", (code) => process.exit(code ?? 1));
process.on("exit", () => server.kill("SIGKILL"));
process.stdin.on("end", () => process.exit(0)).resume();

await post(() => `http://127.0.0.1:${admin}/deployments`, { uri: `http://127.0.0.1:${endpoint}` });
await post((attempt) => `http://127.0.0.1:${ingress}/order/first-${attempt}/create`, { data: {} });
process.stdout.write(`ready ${ingress}\n`);
