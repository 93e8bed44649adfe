// What JavaScript plugins import beside the interfaces of the gateway: text instead of bytes, and
// hooks as plain functions.
//
//     import { plugin, text } from './zproxy.js';
//
//     export const { lifecycle, requestFilter } = plugin({
//       requestFields: ['x-api-key'],
//       init(config) { ... },
//       onRequest(fields, config) { ... },
//     });
//
// It imports nothing of the gateway itself: a component may do what its own source imports, no more.

const decoder = new TextDecoder();
const encoder = new TextEncoder();

const CHUNK_ACTIONS = ['replaced', 'drop', 'detach', 'abort'];
const MESSAGE_ACTIONS = ['replaced', 'drop', 'close'];

/** Bytes as text. Bytes that are not UTF-8 become U+FFFD. `undefined` stays what it is. */
export const text = (bytes) => (bytes === undefined ? undefined : decoder.decode(bytes));

/** Text as bytes. */
export const bytes = (value) => encoder.encode(value);

/** Name and value of each field in what `request.packed()` and `response.packed()` give. */
export function* fields(packed) {
  const view = new DataView(packed.buffer, packed.byteOffset, packed.byteLength);
  let at = 0;
  while (at + 4 <= packed.byteLength) {
    const nameEnd = at + 4 + view.getUint16(at, true);
    const valueEnd = nameEnd + view.getUint16(at + 2, true);
    yield [decoder.decode(packed.subarray(at + 4, nameEnd)), decoder.decode(packed.subarray(nameEnd, valueEnd))];
    at = valueEnd;
  }
}

/** Fields as one buffer, for `response.appendLater`: `pack([['x-a', '1'], ['x-b', bytes]])`. */
export function pack(given) {
  const parts = [...given].map(([name, value]) => [bytes(name), typeof value === 'string' ? bytes(value) : value]);
  const packed = new Uint8Array(parts.reduce((sum, [name, value]) => sum + 4 + name.length + value.length, 0));
  const view = new DataView(packed.buffer);
  let at = 0;
  for (const [name, value] of parts) {
    if (name.length > 65535 || value.length > 65535) throw new Error('a field is longer than 65535 bytes');
    view.setUint16(at, name.length, true);
    view.setUint16(at + 2, value.length, true);
    packed.set(name, at + 4);
    packed.set(value, at + 4 + name.length);
    at += 4 + name.length + value.length;
  }
  return packed;
}

/** The value of the cookie called `name` in a `cookie` field. */
export function cookie(field, name) {
  for (const part of (field ?? '').split(';')) {
    const [key, ...rest] = part.split('=');
    if (key.trim() === name) return rest.join('=').trim();
  }
  return undefined;
}

/** Refuses keys that a configuration should not have, so that a misspelt one is told by name. */
export function onlyKeys(config, known) {
  for (const key of Object.keys(config)) {
    if (!known.includes(key)) throw new Error(`unknown key \`${key}\`; there are ${known.join(', ')}`);
  }
}

/**
 * The interfaces of a plugin, ready to be exported.
 *
 * - `requestFields`, `responseFields`: names of fields that the hooks are handed, in that order; or a
 *   function of what `init` returned that gives them.
 * - `init(config)`: takes the configuration; what it returns is handed to the hooks. What it throws is
 *   what the operator reads.
 * - `onRequest(fields, state)`, `onResponse(status, fields, state)`: `fields` are texts, `undefined`
 *   for what is not there. `'respond'` after a call of `reply.send`; anything else goes on.
 * - `onRequestBody(chunk, end, state)`, `onResponseBody(chunk, end, state)`: `'replaced'` after a call of
 *   `body.replace`, `'drop'`, `'detach'` or `'abort'`; anything else passes the chunk.
 * - `onMessage(sender, kind, data, state)`: a message of a WebSocket; `'client'` or `'server'`, `'text'` or `'binary'`.
 *   `'replaced'` after a call of `websocket.replace`, `'close'` after one of `websocket.close`, or `'drop'`; anything
 *   else passes it.
 *   The data of a text is a string, that of a binary one a `Uint8Array`.
 * - `onLog(summary, state)`, `onTick(state)`, `shutdown(state)`.
 * - `validate(config)`: everything that is wrong with a configuration, as `{ path: '/keys/0', message: '…' }`
 *   with JSON pointers; `init` refuses the same.
 *
 * Export what the world exports: `export const { lifecycle, requestFilter, requestBodyFilter } = plugin(…)`;
 * the others are `responseFilter`, `responseBodyFilter`, `websocketFilter`, `completion`, `ticker`, `retirement` and
 * `validation`.
 */
export function plugin({ requestFields = [], responseFields = [], init, validate, ...hooks }) {
  const { onRequest, onResponse, onRequestBody, onResponseBody, onMessage, onLog, onTick, shutdown } = hooks;
  let state;
  const action = (answer) => (answer === 'respond' ? 'respond' : 'next');
  const chunkAction = (answer) => (CHUNK_ACTIONS.includes(answer) ? answer : 'pass');
  const messageAction = (answer) => (MESSAGE_ACTIONS.includes(answer) ? answer : 'pass');
  const names = (given) => (typeof given === 'function' ? given(state) : given);
  const lifecycle = {
    init(config) {
      try {
        state = init?.(JSON.parse(config));
      } catch (error) {
        // A string becomes the error of `init`; anything else would be a trap.
        throw String(error?.message ?? error);
      }
      return { requestFields: names(requestFields), responseFields: names(responseFields) };
    },
  };
  const interfaces = { lifecycle };
  if (onRequest) {
    interfaces.requestFilter = { onRequest: (values) => action(onRequest(values.map(text), state)) };
  }
  if (onResponse) {
    interfaces.responseFilter = {
      onResponse: (status, values) => action(onResponse(status, values.map(text), state)),
    };
  }
  if (onRequestBody) {
    interfaces.requestBodyFilter = {
      onRequestBody: (chunk, end) => chunkAction(onRequestBody(chunk, end, state)),
    };
  }
  if (onResponseBody) {
    interfaces.responseBodyFilter = {
      onResponseBody: (chunk, end) => chunkAction(onResponseBody(chunk, end, state)),
    };
  }
  if (onMessage) {
    interfaces.websocketFilter = {
      onMessage: (sender, kind, data) =>
        messageAction(onMessage(sender, kind, kind === 'text' ? text(data) : data, state)),
    };
  }
  if (onLog) interfaces.completion = { onLog: (summary) => void onLog(summary, state) };
  if (onTick) interfaces.ticker = { onTick: () => void onTick(state) };
  if (validate) interfaces.validation = { validateConfig: (config) => validate(JSON.parse(config)) };
  if (shutdown) interfaces.retirement = { shutdown: () => void shutdown(state) };
  return interfaces;
}
