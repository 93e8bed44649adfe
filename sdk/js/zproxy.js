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

/** Calls a function for each cookie of a `cookie` field; the value of the one called `name`. */
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
 * - `requestFields`, `responseFields`: names of fields that the hooks are handed, in that order.
 * - `init(config)`: takes the configuration; what it returns is handed to the hooks. What it throws is
 *   what the operator reads.
 * - `onRequest(fields, state)`, `onResponse(status, fields, state)`: `fields` are texts, `undefined`
 *   for what is not there. `'respond'` after a call of `reply.send`; anything else goes on.
 */
export function plugin({ requestFields = [], responseFields = [], init, onRequest, onResponse }) {
  let state;
  const action = (answer) => (answer === 'respond' ? 'respond' : 'next');
  const lifecycle = {
    init(config) {
      try {
        state = init?.(JSON.parse(config));
      } catch (error) {
        // A string becomes the error of `init`; anything else would be a trap.
        throw String(error?.message ?? error);
      }
      return { requestFields, responseFields };
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
  return interfaces;
}
