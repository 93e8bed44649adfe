// Lets requests pass that carry a key, and marks every answer.

import { equal } from 'zproxy:gateway/crypto@0.1.0';
import { remove } from 'zproxy:gateway/request@0.1.0';
import { set } from 'zproxy:gateway/response@0.1.0';
import { send } from 'zproxy:gateway/reply@0.1.0';
import { bytes, onlyKeys, plugin } from './zproxy.js';

export const { lifecycle, requestFilter, responseFilter } = plugin({
  // Fields that every call reads come with the call.
  requestFields: ['x-api-key'],

  init(config) {
    onlyKeys(config, ['key']);
    if (typeof config.key !== 'string') throw new Error('`key` is missing: requests must carry it in x-api-key');
    return { key: bytes(config.key) };
  },

  onRequest([sent], { key }) {
    // Comparing secrets must not tell, by its time, how much of one was right.
    if (sent === undefined || !equal(bytes(sent), key)) {
      send(403, [['content-type', bytes('text/plain')]], bytes('no\n'));
      return 'respond';
    }
    remove('x-api-key');
  },

  onResponse() {
    set('x-served-by', bytes('my-plugin'));
  },
});
