// Sends a share of the visitors to a second version, and each of them to the same one every time.
//
// A visitor without the cookie is dealt a version by chance; the answer sets the cookie. Version b lies under
// a path of its own on the upstream.

import { set, setPath } from 'zproxy:gateway/request@0.1.0';
import { append } from 'zproxy:gateway/response@0.1.0';
import { get as note, set as setNote } from 'zproxy:gateway/context@0.1.0';
import { number } from 'zproxy:gateway/random@0.1.0';
import { bytes, cookie, onlyKeys, plugin, text } from './zproxy.js';

const KEYS = ['cookie', 'share_percent', 'path_prefix'];

export const { lifecycle, requestFilter, responseFilter } = plugin({
  requestFields: ['cookie', ':path'],

  init(config) {
    onlyKeys(config, KEYS);
    const state = { cookie: 'version', share_percent: 10, path_prefix: '/b', ...config };
    if (!(state.share_percent >= 0 && state.share_percent <= 100)) {
      throw new Error('`share_percent` must be 0 to 100');
    }
    if (!/^(\/[\w.~-]+)+$/.test(state.path_prefix)) {
      throw new Error('`path_prefix` must be a path without an end slash, such as /b');
    }
    return state;
  },

  onRequest([cookies, path], state) {
    const known = cookie(cookies, state.cookie);
    let version = known;
    if (known !== 'a' && known !== 'b') {
      version = Number(number() % 100n) < state.share_percent ? 'b' : 'a';
      // The answer has to tell the visitor.
      setNote('ab-cookie', bytes(version));
    }
    set('x-version', bytes(version));
    if (version === 'b') setPath(state.path_prefix + path);
  },

  onResponse(status, fields, state) {
    const dealt = text(note('ab-cookie'));
    if (dealt) append('set-cookie', bytes(`${state.cookie}=${dealt}; Path=/; Max-Age=2592000; SameSite=Lax`));
  },
});
