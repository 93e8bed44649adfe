// undici, fetch, node:http2 and ws against a gateway before the site of site.rs, and before a WebSocket
// server that is here: `node.mjs MODULES`. Its port is the first line of the output; then the gateway's
// addresses and the file of its authority are read, and each check that has passed is a line more.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import http2 from "node:http2";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { Readable } from "node:stream";

const require = createRequire(`${process.argv[2]}/`);
const { Agent, FormData, fetch, request, pipeline } = require("undici");
const { WebSocket, WebSocketServer } = require("ws");

const DEADLINE = 20_000;
const LARGE = Buffer.alloc(8 << 20);
for (let at = 0; at < LARGE.length; at++) LARGE[at] = (at ^ (at >> 8) ^ (at >> 16)) & 0xff;
const digest = (bytes) => createHash("sha256").update(bytes).digest("hex");
const passed = (...what) => console.log(what.join(": "));

async function eventually(what, ready) {
  const until = Date.now() + DEADLINE;
  while (!(await ready())) {
    assert(Date.now() < until, `waited in vain for ${what}`);
    await new Promise((then) => setTimeout(then, 20));
  }
}

async function withUndici(name, base, options) {
  const dispatcher = new Agent({ headersTimeout: DEADLINE, bodyTimeout: DEADLINE, ...options });
  const ask = (path, more) => request(base + path, { dispatcher, ...more });
  const of = name.replaceAll(" ", "-");

  let answer = await ask("/hello");
  assert.deepEqual([answer.statusCode, await answer.body.text()], [200, "hello"]);
  assert.equal((await ask("/hello", { method: "HEAD" })).headers["content-length"], "5");
  assert.equal((await ask("/empty")).statusCode, 204);
  answer = await ask("/missing");
  assert.deepEqual([answer.statusCode, await answer.body.text()], [404, "there is no such thing"]);
  answer = await ask("/cookies");
  assert.deepEqual(answer.headers["set-cookie"], ["a=1", "b=2; Path=/"]);
  await answer.body.dump();
  assert.equal(await (await ask("/early")).body.text(), "late");
  passed(name, "heads");

  answer = await ask("/echo", { method: "POST", body: LARGE.subarray(0, 1 << 20) });
  assert.equal(digest(Buffer.from(await answer.body.arrayBuffer())), digest(LARGE.subarray(0, 1 << 20)));
  answer = await ask("/large");
  assert.equal(digest(Buffer.from(await answer.body.arrayBuffer())), digest(LARGE));
  passed(name, "bodies");

  answer = await ask(`/events?of=${of}`);
  let [seen, text] = [0, ""];
  for await (const part of answer.body) {
    text += part;
    while (text.includes(`data: event ${seen + 1}\n\n`)) {
      seen++;
      const turn = await ask(`/turn?of=${of}`, { method: "POST" });
      await turn.body.dump();
    }
  }
  assert.equal(seen, 5);
  passed(name, "events");

  const giveUp = new AbortController();
  const never = ask(`/never?of=${of}`, { signal: giveUp.signal });
  setTimeout(() => giveUp.abort(), 300);
  await assert.rejects(never, { name: "AbortError" });
  // Over HTTP/1.1 it looks like a client that has said all and waits for its answer.
  if (options?.allowH2) await eventually("the end upstream", async () => (await (await ask(`/gone?of=${of}`)).body.text()) === "1");
  passed(name, "cancelled");

  const bodies = Array.from({ length: 100 }, (_, n) => LARGE.subarray(n * 1_000, n * 2_000));
  const answers = await Promise.all(
    bodies.map(async (body) => (await ask("/echo", { method: "POST", body })).body.arrayBuffer()),
  );
  answers.forEach((answer, n) => assert(Buffer.from(answer).equals(bodies[n])));
  passed(name, "many at once");
  await dispatcher.close();
}

async function withFetch(name, base, options) {
  const dispatcher = new Agent(options);
  const ask = (path, more) => fetch(base + path, { dispatcher, ...more });
  assert.equal(await (await ask("/redirect")).text(), "hello");
  const fields = await (await ask("/fields")).json();
  const forwarded = fields.find(([name]) => name.toLowerCase() === "x-forwarded-proto");
  assert.equal(forwarded[1], base.split(":")[0]);
  const parts = Readable.from([Buffer.alloc(70_000, "a"), Buffer.from("b"), Buffer.alloc(70_000, "c")]);
  const answer = await ask("/echo", { method: "POST", body: Readable.toWeb(parts), duplex: "half" });
  assert.equal((await answer.text()).length, 140_001);
  const form = new FormData();
  form.set("file", new Blob([LARGE.subarray(0, 100_000)]));
  assert((await (await ask("/echo", { method: "POST", body: form })).arrayBuffer()).byteLength > 100_000);
  passed(name);
  await dispatcher.close();
}

// Both ways at once, part by part, over HTTP/1.1.
async function withPipeline(name, base, options) {
  const dispatcher = new Agent(options);
  const both = pipeline(`${base}/duplex`, { dispatcher, method: "POST" }, ({ body }) => body);
  for (let turn = 0; turn < 10; turn++) {
    const part = Buffer.from(`part ${turn}`);
    both.write(part);
    const [came] = await once(both, "data");
    assert.equal(came.toString(), part.toString());
  }
  both.end();
  await once(both.resume(), "end");
  passed(name);
  await dispatcher.close();
}

// Node's own client of HTTP/2: what undici does not show.
async function withHttp2(name, base, options) {
  const session = http2.connect(base, options);
  await once(session, "connect");

  const both = session.request({ ":method": "POST", ":path": "/duplex" });
  for (let turn = 0; turn < 10; turn++) {
    both.write(`part ${turn}`);
    const [came] = await once(both, "data");
    assert.equal(came.toString(), `part ${turn}`);
  }
  both.end();
  await once(both.resume(), "end");

  const trailing = session.request({ ":path": "/trailers" });
  let trailers;
  trailing.on("trailers", (fields) => (trailers = fields["x-sum"]));
  await once(trailing.resume(), "end");
  assert.equal(trailers, "7");

  const early = session.request({ ":path": "/early" });
  const [hints] = await once(early, "headers");
  assert.deepEqual([hints[":status"], hints.link], [103, "</a.css>; rel=preload"]);
  await once(early.resume(), "end");

  await new Promise((then, fail) => session.ping((error) => (error ? fail(error) : then())));
  session.close();
  await once(session, "close");
  passed(name);
}

async function withWebSocket(name, url, options) {
  const socket = new WebSocket(url, ["chat", "other"], { handshakeTimeout: DEADLINE, ...options });
  await once(socket, "open");
  assert.equal(socket.protocol, "chat");
  assert.equal(socket.extensions.split(";")[0], options.perMessageDeflate ? "permessage-deflate" : "");
  for (const message of [Buffer.from("grüße"), Buffer.alloc(0), LARGE]) {
    const binary = message.length > 10;
    socket.send(binary ? message : message.toString());
    const [came, isBinary] = await once(socket, "message");
    assert(came.equals(message) && isBinary === binary);
  }
  // In fragments, with a ping between them.
  socket.send("one ", { fin: false });
  socket.ping("here?");
  socket.send("two", { fin: true });
  const pong = once(socket, "pong");
  const [whole] = await once(socket, "message");
  assert.equal(whole.toString(), "one two");
  assert.equal((await pong)[0].toString(), "here?");
  socket.close(4321, "enough");
  const [code, reason] = await once(socket, "close");
  assert.deepEqual([code, reason.toString()], [4321, "enough"]);

  // The server ends it.
  const ended = new WebSocket(`${url}?end`, { handshakeTimeout: DEADLINE, ...options });
  assert.deepEqual((await once(ended, "close"))[0], 1012);
  passed(name);
}

const chat = new WebSocketServer({ host: "127.0.0.1", port: 0, perMessageDeflate: true });
chat.on("connection", (socket, asked) => {
  if (asked.url.endsWith("?end")) return socket.close(1012, "later");
  socket.on("message", (data, binary) => socket.send(data, { binary }));
});
await once(chat, "listening");
console.log(chat.address().port);
const [line] = await once(createInterface(process.stdin), "line");
const [plain, secure, caPath] = line.split(" ");
const ca = readFileSync(caPath);

await withUndici("undici h1", plain, {});
await withUndici("undici h1 pipelined", plain, { connections: 4, pipelining: 1 });
await withUndici("undici h1 tls", secure, { connect: { ca } });
await withUndici("undici h2 tls", secure, { connect: { ca }, allowH2: true });
await withFetch("fetch h1", plain, {});
await withFetch("fetch h1 tls", secure, { connect: { ca } });
await withFetch("fetch h2 tls", secure, { connect: { ca }, allowH2: true });
await withPipeline("pipeline h1", plain, {});
await withPipeline("pipeline h1 tls", secure, { connect: { ca } });
await withHttp2("http2 clear", plain, {});
await withHttp2("http2 tls", secure, { ca });
await withWebSocket("ws", plain.replace("http", "ws") + "/ws", { perMessageDeflate: false });
await withWebSocket("ws deflated", plain.replace("http", "ws") + "/ws", { perMessageDeflate: true });
await withWebSocket("ws tls", secure.replace("http", "ws") + "/ws", { ca, perMessageDeflate: false });
await withWebSocket("ws tls deflated", secure.replace("http", "ws") + "/ws", { ca, perMessageDeflate: true });
process.exit(0);
