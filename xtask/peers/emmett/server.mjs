// Orders kept by Emmett on PostgreSQL, behind HTTP: server.mjs CLIENTS SECONDS plain|view.
//
// POST /order/ID/create {data} and POST /order/ID/update {expected, data}. With `view`, each event also updates a
// document of a Pongo collection, in the same transaction. Says "ready PORT", and ends when its input does.

import { createServer } from "node:http";
import pg from "pg";
import {
  CommandHandler,
  isExpectedVersionConflictError,
  projections,
  STREAM_DOES_NOT_EXIST,
} from "@event-driven-io/emmett";
import { getPostgreSQLEventStore, pongoSingleStreamProjection } from "@event-driven-io/emmett-postgresql";

const CONNECTIONS_MAX = 16;

const [clients, , mode] = process.argv.slice(2);
const connectionString = process.env.PEER_POSTGRES_URL;
const pool = new pg.Pool({ connectionString, max: Math.min(Number(clients), CONNECTIONS_MAX) });

const evolve = (_before, { data }) => data;
const view = pongoSingleStreamProjection({
  collectionName: "orders",
  canHandle: ["OrderCreated", "OrderUpdated"],
  evolve,
});
const store = getPostgreSQLEventStore(connectionString, {
  connectionOptions: { pool },
  projections: mode === "view" ? projections.inline([view]) : [],
});
await store.schema.migrate();

const handle = CommandHandler({ evolve, initialState: () => ({}) });

/** Carries out one command; gives the version that the order has then. */
async function execute(id, name, { expected, data }) {
  const command =
    name === "create"
      ? { type: "OrderCreated", expectedStreamVersion: STREAM_DOES_NOT_EXIST }
      : { type: "OrderUpdated", expectedStreamVersion: BigInt(expected) };
  const { type, expectedStreamVersion } = command;
  const result = await handle(store, `order-${id}`, () => ({ type, data }), { expectedStreamVersion });
  return Number(result.nextExpectedStreamVersion);
}

// The collection of the view is made with its first document: several at once would be in each other's way.
await execute("first", "create", { data: {} });

function body(request) {
  return new Promise((resolve, reject) => {
    let text = "";
    request.setEncoding("utf8");
    request.on("data", (piece) => (text += piece));
    request.on("end", () => resolve(text));
    request.on("error", reject);
  });
}

const server = createServer(async (request, response) => {
  let status = 200;
  let answer;
  try {
    const [, , id, name] = request.url.split("/");
    answer = { version: await execute(id, name, JSON.parse(await body(request))) };
  } catch (error) {
    status = isExpectedVersionConflictError(error) ? 409 : 500;
    answer = { error: String(error) };
  }
  const text = JSON.stringify(answer);
  response.writeHead(status, { "content-type": "application/json", "content-length": Buffer.byteLength(text) });
  response.end(text);
});
server.listen(0, "127.0.0.1", () => process.stdout.write(`ready ${server.address().port}\n`));

process.stdin.on("end", () => process.exit(0)).resume();
