/* Lets requests pass that carry a key, and marks every answer. */

#include "zproxy.h"

/* Requests must carry it in x-api-key. */
static zproxy_text key;

const char *zproxy_init(zproxy_text config) {
    static const zproxy_text fields[] = {{"x-api-key", 9}};
    zproxy_text name, value;
    zproxy_kind kind;
    int more;
    while ((more = zproxy_next_member(&config, &name, &kind, &value)) > 0) {
        if (!zproxy_equal(name, ZPROXY_TEXT("key"))) return "unknown key; there is `key`";
        if (kind != ZPROXY_STRING) return "`key` must be a string";
        key = zproxy_string(zproxy_keep(value));
    }
    if (more < 0) return "the configuration must be an object of plain values";
    if (!key.data) return "`key` is missing: requests must carry it in x-api-key";
    /* Fields that every call reads come with the call. */
    zproxy_request_fields(fields, 1);
    return NULL;
}

ZPROXY_ON_REQUEST(fields) {
    /* Comparing secrets must not tell, by its time, how much of one was right. */
    if (!zproxy_secret_equal(zproxy_value(fields, 0), key)) {
        zproxy_field type = {ZPROXY_TEXT("content-type"), ZPROXY_TEXT("text/plain")};
        zproxy_reply(403, &type, 1, ZPROXY_TEXT("no\n"));
        return ZPROXY_RESPOND;
    }
    zproxy_request_remove(ZPROXY_TEXT("x-api-key"));
    return ZPROXY_NEXT;
}

ZPROXY_ON_RESPONSE(status, fields) {
    (void)status, (void)fields;
    zproxy_response_set(ZPROXY_TEXT("x-served-by"), ZPROXY_TEXT("my-plugin"));
    return ZPROXY_NEXT;
}
