/* Gives every request an id, tells upstream and client, and writes a line about it to the log.
 *
 * The id is the client's `x-request-id` when it sends a sane one, else 128 random bits.
 */

#include <inttypes.h>

#include "zproxy.h"

/* In front of every line; the configuration's `prefix`. */
static const char *prefix = "zproxy";

/* Whether anybody reads the lines. */
static bool logs;

/* The longest id that is taken over: a UUID has 36 letters. */
enum { ID_MAX = 64 };

enum { METHOD, PATH, REQUEST_ID };
static const zproxy_text fields[] = {{":method", 7}, {":path", 5}, {"x-request-id", 12}};

const char *zproxy_init(zproxy_text config) {
    zproxy_text key, value;
    zproxy_kind kind;
    int more;
    while ((more = zproxy_next_member(&config, &key, &kind, &value)) > 0) {
        if (!zproxy_equal(key, ZPROXY_TEXT("prefix"))) return "unknown key; there is `prefix`";
        if (kind != ZPROXY_STRING) return "`prefix` must be a string";
        prefix = zproxy_keep(value);
    }
    if (more < 0) return "the configuration must be an object of plain values";
    logs = zproxy_logs(ZPROXY_INFO);
    zproxy_request_fields(fields, sizeof fields / sizeof *fields);
    return NULL;
}

/* Visible letters only: what a client sends goes into logs and to other services. */
static bool is_sane(zproxy_text id) {
    if (id.length == 0 || id.length > ID_MAX) return false;
    for (size_t at = 0; at < id.length; at++)
        if (id.data[at] <= ' ' || id.data[at] > '~') return false;
    return true;
}

ZPROXY_ON_REQUEST(values) {
    char made[33], line[512];
    zproxy_text id = zproxy_value(values, REQUEST_ID);
    if (!is_sane(id)) {
        snprintf(made, sizeof made, "%016" PRIx64 "%016" PRIx64, zproxy_random(), zproxy_random());
        id = zproxy_string(made);
        zproxy_request_set(fields[REQUEST_ID], id);
    }
    /* For the response, and for later plugins. */
    zproxy_context_set(ZPROXY_TEXT("request-id"), id);
    if (logs) {
        zproxy_text method = zproxy_value(values, METHOD), path = zproxy_value(values, PATH);
        snprintf(line, sizeof line, "[%s] Request: %.*s %.*s (%.*s)", prefix, (int)method.length,
                 method.data, (int)path.length, path.data, (int)id.length, id.data);
        zproxy_log(ZPROXY_INFO, zproxy_string(line));
    }
    return ZPROXY_NEXT;
}

ZPROXY_ON_RESPONSE(status, values) {
    (void)status, (void)values;
    zproxy_text id = zproxy_context_get(ZPROXY_TEXT("request-id"));
    if (id.data) zproxy_response_set(fields[REQUEST_ID], id);
    return ZPROXY_NEXT;
}
