// Sends a share of the visitors to a second version, and each of them to the same one every time.
//
// A visitor without the cookie is dealt a version by chance; the answer sets the cookie. Version a is where
// the route leads, version b another upstream of the gateway.

import { set, setUpstream } from 'zproxy:gateway/request@0.1.0';
import { append } from 'zproxy:gateway/response@0.1.0';
import { get as note, set as setNote } from 'zproxy:gateway/context@0.1.0';
import { number } from 'zproxy:gateway/random@0.1.0';
import { bytes, cookie, onlyKeys, plugin, text } from './zproxy.js';

const KEYS = ['cookie', 'share_percent', 'upstream'];

export const { lifecycle, requestFilter, responseFilter } = plugin({
  requestFields: ['cookie'],

  init(config) {
    onlyKeys(config, KEYS);
    const state = { cookie: 'version', share_percent: 10, ...config };
    if (!(state.share_percent >= 0 && state.share_percent <= 100)) {
      throw new Error('`share_percent` must be 0 to 100');
    }
    if (typeof state.upstream !== 'string') {
      throw new Error('`upstream` is missing: the name of the upstream that has version b');
    }
    return state;
  },

  onRequest([cookies], state) {
    const known = cookie(cookies, state.cookie);
    let version = known;
    if (known !== 'a' && known !== 'b') {
      version = Number(number() % 100n) < state.share_percent ? 'b' : 'a';
      // The answer has to tell the visitor.
      setNote('ab-cookie', bytes(version));
    }
    if (version === 'b' && !setUpstream(state.upstream)) {
      throw new Error(`there is no upstream \`${state.upstream}\``);
    }
    set('x-version', bytes(version));
  },

  onResponse(status, fields, state) {
    const dealt = text(note('ab-cookie'));
    if (dealt) append('set-cookie', bytes(`${state.cookie}=${dealt}; Path=/; Max-Age=2592000; SameSite=Lax`));
  },
});
