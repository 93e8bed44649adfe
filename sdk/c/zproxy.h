/* Plugins for ZProxy in C: one header, no generated code, no library.
 *
 *     #include "zproxy.h"
 *
 *     const char *zproxy_init(zproxy_text config) { ... return NULL; }
 *
 *     ZPROXY_ON_RESPONSE(fields) {
 *         zproxy_response_set(ZPROXY_TEXT("x-served-by"), ZPROXY_TEXT("edge-1"));
 *         return ZPROXY_NEXT;
 *     }
 *
 * Included once, by the file that has the hooks; wit/world.wit exports the same hooks. What the file
 * does not call it does not import.
 *
 * Memory: texts that the gateway hands over live until the hook, or zproxy_init, returns; nothing has
 * to be freed. Copy what must stay. An instance runs one hook at a time, on one thread.
 */
#ifndef ZPROXY_H
#define ZPROXY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Bytes with their length; without a NUL at the end. `data` is NULL for what is not there. */
typedef struct {
    const char *data;
    size_t length;
} zproxy_text;

/* A field, as names and values of `reply.send`. */
typedef struct {
    zproxy_text name;
    zproxy_text value;
} zproxy_field;

/* A value that a hook is handed, by the ABI: use zproxy_value. */
typedef struct {
    uint8_t there;
    zproxy_text text;
} zproxy_option;

/* What a hook answers. */
typedef enum {
    /* Go on along the chain. */
    ZPROXY_NEXT = 0,
    /* Go no further: the answer is what zproxy_reply was given during this call. */
    ZPROXY_RESPOND = 1,
} zproxy_action;

/* What a body hook says of a chunk. */
typedef enum {
    /* It goes on as it is. */
    ZPROXY_PASS,
    /* What zproxy_body_replace was given during this call goes on in its place. */
    ZPROXY_REPLACED,
    /* Nothing goes on in its place. */
    ZPROXY_DROP,
    /* It goes on, and no more of this message is shown. */
    ZPROXY_DETACH,
    /* The message is broken off. */
    ZPROXY_ABORT,
} zproxy_chunk_action;

/* Who has sent a WebSocket message, and what it is; text is UTF-8. */
typedef enum { ZPROXY_CLIENT, ZPROXY_SERVER } zproxy_peer;
typedef enum { ZPROXY_TEXT_MESSAGE, ZPROXY_BINARY_MESSAGE } zproxy_message_kind;

/* What a hook says of a WebSocket message. */
typedef enum {
    /* It goes on as it is. */
    ZPROXY_MESSAGE_PASS,
    /* What zproxy_websocket_replace was given during this call goes on in its place. */
    ZPROXY_MESSAGE_REPLACED,
    /* Nothing goes on in its place. */
    ZPROXY_MESSAGE_DROP,
    /* Both ends are closed, with what zproxy_websocket_close was given during this call. */
    ZPROXY_MESSAGE_CLOSE,
} zproxy_message_action;

/* An exchange that is over; bytes with their framing, times in microseconds. */
typedef struct {
    uint16_t status;
    uint64_t request_bytes, response_bytes, duration_us, upstream_us;
} zproxy_summary;

typedef enum { ZPROXY_DEBUG, ZPROXY_INFO, ZPROXY_WARN, ZPROXY_ERROR } zproxy_level;

/* A string literal as a text. */
#define ZPROXY_TEXT(literal) ((zproxy_text){(literal), sizeof(literal) - 1})

static inline zproxy_text zproxy_string(const char *string) {
    return (zproxy_text){string, strlen(string)};
}

static inline bool zproxy_equal(zproxy_text a, zproxy_text b) {
    return a.length == b.length && (a.length == 0 || memcmp(a.data, b.data, a.length) == 0);
}

/* ---- What the plugin defines -------------------------------------------------------------------- */

/* Takes the configuration, a JSON object. NULL accepts; a text is what the operator reads. */
const char *zproxy_init(zproxy_text config);

/* Fields that the hooks are handed, in this order; to be called in zproxy_init. At most 64 each; `names`
 * must stay. */
static void zproxy_request_fields(const zproxy_text *names, size_t count);
static void zproxy_response_fields(const zproxy_text *names, size_t count);

#define ZPROXY_EXPORT(name) __attribute__((export_name(name), used))
#define ZPROXY_IMPORT(interface, name) \
    __attribute__((import_module("zproxy:gateway/" interface "@0.1.0"), import_name(name)))

/* Called for each request: `ZPROXY_ON_REQUEST(fields) { … return ZPROXY_NEXT; }`. */
#define ZPROXY_ON_REQUEST(fields)                                                              \
    static zproxy_action zproxy_on_request(const zproxy_option *fields);                       \
    ZPROXY_EXPORT("zproxy:gateway/request-filter@0.1.0#on-request")                            \
    int32_t zproxy_export_on_request(zproxy_option *values, size_t count) {                    \
        zproxy_action action = zproxy_on_request(values);                                      \
        (void)count;                                                                           \
        zproxy_forget();                                                                       \
        return action;                                                                         \
    }                                                                                          \
    static zproxy_action zproxy_on_request(const zproxy_option *fields)

/* Called for each response: `ZPROXY_ON_RESPONSE(status, fields) { … return ZPROXY_NEXT; }`. */
#define ZPROXY_ON_RESPONSE(status, fields)                                                     \
    static zproxy_action zproxy_on_response(uint16_t status, const zproxy_option *fields);     \
    ZPROXY_EXPORT("zproxy:gateway/response-filter@0.1.0#on-response")                          \
    int32_t zproxy_export_on_response(int32_t code, zproxy_option *values, size_t count) {     \
        zproxy_action action = zproxy_on_response((uint16_t)code, values);                     \
        (void)count;                                                                           \
        zproxy_forget();                                                                       \
        return action;                                                                         \
    }                                                                                          \
    static zproxy_action zproxy_on_response(uint16_t status, const zproxy_option *fields)

/* Called for each chunk of a request's body: `ZPROXY_ON_REQUEST_BODY(chunk, end) { … return ZPROXY_PASS; }`.
 * `end` is true for the last, which may be empty. Messages take turns: what belongs to one of them goes into
 * zproxy_context_set. */
#define ZPROXY_ON_REQUEST_BODY(chunk, end)                                                     \
    static zproxy_chunk_action zproxy_on_request_body(zproxy_text chunk, bool end);            \
    ZPROXY_EXPORT("zproxy:gateway/request-body-filter@0.1.0#on-request-body")                  \
    int32_t zproxy_export_on_request_body(const char *data, size_t length, int32_t last) {     \
        int32_t action = zproxy_on_request_body((zproxy_text){data, length}, last != 0);       \
        zproxy_forget();                                                                       \
        return action;                                                                         \
    }                                                                                          \
    static zproxy_chunk_action zproxy_on_request_body(zproxy_text chunk, bool end)

/* The same for a response's. */
#define ZPROXY_ON_RESPONSE_BODY(chunk, end)                                                    \
    static zproxy_chunk_action zproxy_on_response_body(zproxy_text chunk, bool end);           \
    ZPROXY_EXPORT("zproxy:gateway/response-body-filter@0.1.0#on-response-body")                \
    int32_t zproxy_export_on_response_body(const char *data, size_t length, int32_t last) {    \
        int32_t action = zproxy_on_response_body((zproxy_text){data, length}, last != 0);      \
        zproxy_forget();                                                                       \
        return action;                                                                         \
    }                                                                                          \
    static zproxy_chunk_action zproxy_on_response_body(zproxy_text chunk, bool end)

/* Called for each message of a WebSocket: `ZPROXY_ON_MESSAGE(sender, kind, data) { … return ZPROXY_MESSAGE_PASS; }`.
 * Messages take turns: what belongs to one WebSocket goes into zproxy_context_set. */
#define ZPROXY_ON_MESSAGE(sender, kind, data)                                                  \
    static zproxy_message_action zproxy_on_message(zproxy_peer sender, zproxy_message_kind kind, \
                                                   zproxy_text data);                          \
    ZPROXY_EXPORT("zproxy:gateway/websocket-filter@0.1.0#on-message")                          \
    int32_t zproxy_export_on_message(int32_t from, int32_t is, const char *bytes, size_t length) { \
        int32_t action = zproxy_on_message((zproxy_peer)from, (zproxy_message_kind)is,         \
                                           (zproxy_text){bytes, length});                      \
        zproxy_forget();                                                                       \
        return action;                                                                         \
    }                                                                                          \
    static zproxy_message_action zproxy_on_message(zproxy_peer sender, zproxy_message_kind kind, \
                                                   zproxy_text data)

/* Called after each exchange, when nobody waits: `ZPROXY_ON_LOG(summary) { … summary->status … }`. */
#define ZPROXY_ON_LOG(summary)                                                                 \
    static void zproxy_on_log(const zproxy_summary *summary);                                  \
    ZPROXY_EXPORT("zproxy:gateway/completion@0.1.0#on-log")                                    \
    void zproxy_export_on_log(int32_t status, int64_t request, int64_t response, int64_t took, \
                              int64_t upstream) {                                              \
        zproxy_summary values = {(uint16_t)status, (uint64_t)request, (uint64_t)response,      \
                                 (uint64_t)took, (uint64_t)upstream};                          \
        zproxy_on_log(&values);                                                                \
        zproxy_forget();                                                                       \
    }                                                                                          \
    static void zproxy_on_log(const zproxy_summary *summary)

/* Called about once a second, between requests: `ZPROXY_ON_TICK() { … }`. There is no exchange. */
#define ZPROXY_ON_TICK()                                                                       \
    static void zproxy_on_tick(void);                                                          \
    ZPROXY_EXPORT("zproxy:gateway/ticker@0.1.0#on-tick")                                       \
    void zproxy_export_on_tick(void) {                                                         \
        zproxy_on_tick();                                                                      \
        zproxy_forget();                                                                       \
    }                                                                                          \
    static void zproxy_on_tick(void)

/* Called before the instance is retired: `ZPROXY_SHUTDOWN() { … }`. */
#define ZPROXY_SHUTDOWN()                                                                      \
    static void zproxy_shutdown(void);                                                         \
    ZPROXY_EXPORT("zproxy:gateway/retirement@0.1.0#shutdown")                                  \
    void zproxy_export_shutdown(void) {                                                        \
        zproxy_shutdown();                                                                     \
        zproxy_forget();                                                                       \
    }                                                                                          \
    static void zproxy_shutdown(void)

/* Says everything that is wrong with a configuration, each by a call of zproxy_problem; zproxy_init refuses the
 * same: `ZPROXY_VALIDATE(config) { … zproxy_problem("/keys/0", "…"); }`. Texts must stay. */
#define ZPROXY_VALIDATE(config)                                                                \
    static void zproxy_validate(zproxy_text config);                                           \
    ZPROXY_EXPORT("zproxy:gateway/validation@0.1.0#validate-config")                           \
    void *zproxy_export_validate(const char *data, size_t length) {                            \
        zproxy_problems.count = 0;                                                             \
        zproxy_validate((zproxy_text){data, length});                                          \
        zproxy_forget();                                                                       \
        return &zproxy_problems;                                                               \
    }                                                                                          \
    static void zproxy_validate(zproxy_text config)

/* `path` is a JSON pointer into the configuration. Of more than 32 the others are left out. */
static inline void zproxy_problem(const char *path, const char *message);

/* The value at `index` of the fields of a hook. */
static inline zproxy_text zproxy_value(const zproxy_option *fields, size_t index) {
    return fields[index].there ? fields[index].text : (zproxy_text){NULL, 0};
}

/* ---- What the gateway offers; wit/ says what each does, when it fails and what it costs ---------- */

typedef struct {
    zproxy_text *items;
    size_t count;
} zproxy_list;

ZPROXY_IMPORT("request", "get") void zproxy_import_request_get(const char *, size_t, zproxy_option *);
ZPROXY_IMPORT("request", "get-all") void zproxy_import_request_get_all(const char *, size_t, zproxy_list *);
ZPROXY_IMPORT("request", "packed") void zproxy_import_request_packed(zproxy_text *);
ZPROXY_IMPORT("request", "set") void zproxy_import_request_set(const char *, size_t, const char *, size_t);
ZPROXY_IMPORT("request", "append") void zproxy_import_request_append(const char *, size_t, const char *, size_t);
ZPROXY_IMPORT("request", "remove") void zproxy_import_request_remove(const char *, size_t);
ZPROXY_IMPORT("request", "set-path") void zproxy_import_request_set_path(const char *, size_t);
ZPROXY_IMPORT("request", "param") void zproxy_import_request_param(const char *, size_t, zproxy_option *);
ZPROXY_IMPORT("request", "set-upstream") int32_t zproxy_import_request_set_upstream(const char *, size_t);
ZPROXY_IMPORT("body", "skip") void zproxy_import_body_skip(void);
ZPROXY_IMPORT("body", "observe") void zproxy_import_body_observe(void);
ZPROXY_IMPORT("body", "hold") void zproxy_import_body_hold(int32_t);
ZPROXY_IMPORT("body", "replace") void zproxy_import_body_replace(const char *, size_t);
ZPROXY_IMPORT("websocket", "replace") void zproxy_import_websocket_replace(int32_t, const char *, size_t);
ZPROXY_IMPORT("websocket", "close") void zproxy_import_websocket_close(int32_t, const char *, size_t);
ZPROXY_IMPORT("response", "append-later") void zproxy_import_response_append_later(const char *, size_t);
ZPROXY_IMPORT("response", "get") void zproxy_import_response_get(const char *, size_t, zproxy_option *);
ZPROXY_IMPORT("response", "get-all") void zproxy_import_response_get_all(const char *, size_t, zproxy_list *);
ZPROXY_IMPORT("response", "packed") void zproxy_import_response_packed(zproxy_text *);
ZPROXY_IMPORT("response", "set-status") void zproxy_import_response_set_status(int32_t);
ZPROXY_IMPORT("response", "set") void zproxy_import_response_set(const char *, size_t, const char *, size_t);
ZPROXY_IMPORT("response", "append") void zproxy_import_response_append(const char *, size_t, const char *, size_t);
ZPROXY_IMPORT("response", "remove") void zproxy_import_response_remove(const char *, size_t);
ZPROXY_IMPORT("reply", "send") void zproxy_import_reply_send(int32_t, const zproxy_field *, size_t, const char *, size_t);
ZPROXY_IMPORT("context", "get") void zproxy_import_context_get(const char *, size_t, zproxy_option *);
ZPROXY_IMPORT("context", "set") void zproxy_import_context_set(const char *, size_t, const char *, size_t);
ZPROXY_IMPORT("log", "max-level") void zproxy_import_log_max_level(uint8_t *);
ZPROXY_IMPORT("log", "write") void zproxy_import_log_write(int32_t, const char *, size_t);
ZPROXY_IMPORT("random", "number") int64_t zproxy_import_random_number(void);
ZPROXY_IMPORT("clock", "unix-ms") int64_t zproxy_import_clock_unix_ms(void);
ZPROXY_IMPORT("clock", "monotonic-us") int64_t zproxy_import_clock_monotonic_us(void);

/* All values of a field joined, or a pseudo field such as `:path`. */
static inline zproxy_text zproxy_request_get(zproxy_text name) {
    zproxy_option value;
    zproxy_import_request_get(name.data, name.length, &value);
    return value.there ? value.text : (zproxy_text){NULL, 0};
}
static inline zproxy_list zproxy_request_get_all(zproxy_text name) {
    zproxy_list values;
    zproxy_import_request_get_all(name.data, name.length, &values);
    return values;
}
/* All fields in one buffer: for zproxy_next_field. */
static inline zproxy_text zproxy_request_packed(void) {
    zproxy_text packed;
    zproxy_import_request_packed(&packed);
    return packed;
}
static inline void zproxy_request_set(zproxy_text name, zproxy_text value) {
    zproxy_import_request_set(name.data, name.length, value.data, value.length);
}
static inline void zproxy_request_append(zproxy_text name, zproxy_text value) {
    zproxy_import_request_append(name.data, name.length, value.data, value.length);
}
static inline void zproxy_request_remove(zproxy_text name) {
    zproxy_import_request_remove(name.data, name.length);
}
static inline void zproxy_request_set_path(zproxy_text path) {
    zproxy_import_request_set_path(path.data, path.length);
}
/* A parameter of the route's path. */
static inline zproxy_text zproxy_request_param(zproxy_text name) {
    zproxy_option value;
    zproxy_import_request_param(name.data, name.length, &value);
    return value.there ? value.text : (zproxy_text){NULL, 0};
}
/* Sends the request to this upstream; false when there is none of this name. */
static inline bool zproxy_request_set_upstream(zproxy_text name) {
    return zproxy_import_request_set_upstream(name.data, name.length);
}
/* In a head hook, of the message's body: do not show it, only show it, hold all of it up to so many bytes. */
static inline void zproxy_body_skip(void) { zproxy_import_body_skip(); }
static inline void zproxy_body_observe(void) { zproxy_import_body_observe(); }
static inline void zproxy_body_hold(uint32_t bytes_max) { zproxy_import_body_hold((int32_t)bytes_max); }
/* In a body hook, in place of the chunk; in a head hook, in place of the whole body. */
static inline void zproxy_body_replace(zproxy_text bytes) {
    zproxy_import_body_replace(bytes.data, bytes.length);
}

/* In ZPROXY_ON_MESSAGE: what goes on in place of the message; what both ends are told. */
static inline void zproxy_websocket_replace(zproxy_message_kind kind, zproxy_text data) {
    zproxy_import_websocket_replace(kind, data.data, data.length);
}
static inline void zproxy_websocket_close(uint16_t code, zproxy_text reason) {
    zproxy_import_websocket_close(code, reason.data, reason.length);
}

static inline zproxy_text zproxy_response_get(zproxy_text name) {
    zproxy_option value;
    zproxy_import_response_get(name.data, name.length, &value);
    return value.there ? value.text : (zproxy_text){NULL, 0};
}
static inline zproxy_list zproxy_response_get_all(zproxy_text name) {
    zproxy_list values;
    zproxy_import_response_get_all(name.data, name.length, &values);
    return values;
}
static inline zproxy_text zproxy_response_packed(void) {
    zproxy_text packed;
    zproxy_import_response_packed(&packed);
    return packed;
}
static inline void zproxy_response_set_status(uint16_t status) {
    zproxy_import_response_set_status(status);
}
static inline void zproxy_response_set(zproxy_text name, zproxy_text value) {
    zproxy_import_response_set(name.data, name.length, value.data, value.length);
}
static inline void zproxy_response_append(zproxy_text name, zproxy_text value) {
    zproxy_import_response_append(name.data, name.length, value.data, value.length);
}
static inline void zproxy_response_remove(zproxy_text name) {
    zproxy_import_response_remove(name.data, name.length);
}
/* In ZPROXY_ON_REQUEST: fields for the response when it passes this plugin, without the price of a hook. */
static inline void zproxy_response_append_later(const zproxy_field *fields, size_t count);
/* The answer of this hook, which must then return ZPROXY_RESPOND. */
static inline void zproxy_reply(uint16_t status, const zproxy_field *fields, size_t count, zproxy_text body) {
    zproxy_import_reply_send(status, fields, count, body.data, body.length);
}
/* A note on the exchange, for later hooks and plugins. */
static inline zproxy_text zproxy_context_get(zproxy_text key) {
    zproxy_option value;
    zproxy_import_context_get(key.data, key.length, &value);
    return value.there ? value.text : (zproxy_text){NULL, 0};
}
static inline void zproxy_context_set(zproxy_text key, zproxy_text value) {
    zproxy_import_context_set(key.data, key.length, value.data, value.length);
}
/* Whether lines of a level are written at all: ask once, in zproxy_init. */
static inline bool zproxy_logs(zproxy_level level) {
    uint8_t most[2] = {0, 0};
    zproxy_import_log_max_level(most);
    return most[0] && level >= most[1];
}
static inline void zproxy_log(zproxy_level level, zproxy_text message) {
    zproxy_import_log_write(level, message.data, message.length);
}
static inline uint64_t zproxy_unix_ms(void) { return (uint64_t)zproxy_import_clock_unix_ms(); }
static inline uint64_t zproxy_monotonic_us(void) { return (uint64_t)zproxy_import_clock_monotonic_us(); }

/* From the system's cryptographic generator. */
static inline uint64_t zproxy_random(void) { return (uint64_t)zproxy_import_random_number(); }

/* ---- Keys, metrics, counts, values, callouts ------------------------------------------------------
 *
 * What needs a grant of the operator says so, and is in worlds of its own: a wit/world.wit that uses it has
 * `include zproxy:gateway/capabilities@0.1.0;`, for callouts `include zproxy:gateway/callouts@0.1.0;`. Not
 * here: `cache` and `crypto.key-set`. */

/* Whether two secrets are the same, in time that depends on their lengths only. */
ZPROXY_IMPORT("crypto", "equal") int32_t zproxy_import_crypto_equal(const char *, size_t, const char *, size_t);
static inline bool zproxy_secret_equal(zproxy_text a, zproxy_text b) {
    return zproxy_import_crypto_equal(a.data, a.length, b.data, b.length);
}

/* An id, or why there is none: `problem` is NULL when there is one. Texts live as all texts do. */
typedef struct {
    uint32_t id;
    zproxy_text problem;
} zproxy_made;
typedef struct {
    uint8_t failed;
    union {
        uint32_t id;
        zproxy_text problem;
    } as;
} zproxy_result;
static inline zproxy_made zproxy_made_of(zproxy_result result) {
    zproxy_made made = {0, {NULL, 0}};
    if (result.failed) made.problem = result.as.problem;
    else made.id = result.as.id;
    return made;
}

/* Takes a key in, in zproxy_init: an algorithm of JWS, and `secret`, `pem` or `jwk`. */
ZPROXY_IMPORT("crypto", "key") void zproxy_import_crypto_key(const char *, size_t, const char *, size_t, const char *,
                                                             size_t, zproxy_result *);
static inline zproxy_made zproxy_key(zproxy_text algorithm, zproxy_text format, zproxy_text material) {
    zproxy_result result;
    zproxy_import_crypto_key(algorithm.data, algorithm.length, format.data, format.length, material.data,
                             material.length, &result);
    return zproxy_made_of(result);
}
ZPROXY_IMPORT("crypto", "verify") int32_t zproxy_import_crypto_verify(int32_t, const char *, size_t, const char *, size_t);
static inline bool zproxy_verify(uint32_t key, zproxy_text data, zproxy_text signature) {
    return zproxy_import_crypto_verify((int32_t)key, data.data, data.length, signature.data, signature.length);
}
/* The signature under a key of HS; NULL for any other. */
ZPROXY_IMPORT("crypto", "sign") void zproxy_import_crypto_sign(int32_t, const char *, size_t, zproxy_option *);
static inline zproxy_text zproxy_sign(uint32_t key, zproxy_text data) {
    zproxy_option signature;
    zproxy_import_crypto_sign((int32_t)key, data.data, data.length, &signature);
    return signature.there ? signature.text : (zproxy_text){NULL, 0};
}
typedef enum { ZPROXY_SHA256, ZPROXY_SHA384, ZPROXY_SHA512 } zproxy_digest_algorithm;
ZPROXY_IMPORT("crypto", "digest") void zproxy_import_crypto_digest(int32_t, const char *, size_t, zproxy_text *);
static inline zproxy_text zproxy_digest(zproxy_digest_algorithm algorithm, zproxy_text data) {
    zproxy_text digest;
    zproxy_import_crypto_digest(algorithm, data.data, data.length, &digest);
    return digest;
}
ZPROXY_IMPORT("random", "bytes") void zproxy_import_random_bytes(int32_t, zproxy_text *);
static inline zproxy_text zproxy_random_bytes(uint32_t count) {
    zproxy_text bytes;
    zproxy_import_random_bytes((int32_t)count, &bytes);
    return bytes;
}

/* Metrics of the plugin's own, on /metrics; to be made in zproxy_init. */
ZPROXY_IMPORT("metrics", "counter") void zproxy_import_metrics_counter(const char *, size_t, const char *, size_t, zproxy_result *);
ZPROXY_IMPORT("metrics", "gauge") void zproxy_import_metrics_gauge(const char *, size_t, const char *, size_t, zproxy_result *);
ZPROXY_IMPORT("metrics", "histogram") void zproxy_import_metrics_histogram(const char *, size_t, const char *, size_t,
                                                                           const double *, size_t, zproxy_result *);
ZPROXY_IMPORT("metrics", "add") void zproxy_import_metrics_add(int32_t, int64_t);
ZPROXY_IMPORT("metrics", "set") void zproxy_import_metrics_set(int32_t, double);
ZPROXY_IMPORT("metrics", "observe") void zproxy_import_metrics_observe(int32_t, double);
static inline zproxy_made zproxy_counter(zproxy_text name, zproxy_text help) {
    zproxy_result result;
    zproxy_import_metrics_counter(name.data, name.length, help.data, help.length, &result);
    return zproxy_made_of(result);
}
static inline zproxy_made zproxy_gauge(zproxy_text name, zproxy_text help) {
    zproxy_result result;
    zproxy_import_metrics_gauge(name.data, name.length, help.data, help.length, &result);
    return zproxy_made_of(result);
}
static inline zproxy_made zproxy_histogram(zproxy_text name, zproxy_text help, const double *bounds, size_t count) {
    zproxy_result result;
    zproxy_import_metrics_histogram(name.data, name.length, help.data, help.length, bounds, count, &result);
    return zproxy_made_of(result);
}
static inline void zproxy_counter_add(uint32_t id, uint64_t count) { zproxy_import_metrics_add((int32_t)id, (int64_t)count); }
static inline void zproxy_gauge_set(uint32_t id, double value) { zproxy_import_metrics_set((int32_t)id, value); }
static inline void zproxy_histogram_observe(uint32_t id, double value) { zproxy_import_metrics_observe((int32_t)id, value); }

/* Counts that hold over all workers. Need `allow.counters`. */
typedef struct {
    uint32_t count, period_ms, burst;
} zproxy_quota;
typedef struct {
    bool allowed;
    uint32_t remaining, retry_after_ms, reset_after_ms;
} zproxy_decision;
typedef struct {
    zproxy_text key;
    zproxy_quota quota;
    uint32_t cost;
} zproxy_wanted;
ZPROXY_IMPORT("counters", "add") int64_t zproxy_import_counters_add(const char *, size_t, int64_t, int32_t);
ZPROXY_IMPORT("counters", "get") int64_t zproxy_import_counters_get(const char *, size_t, int32_t);
ZPROXY_IMPORT("counters", "take") void zproxy_import_counters_take(const char *, size_t, int32_t, int32_t, int32_t, int32_t,
                                                                   zproxy_decision *);
ZPROXY_IMPORT("counters", "give-back") void zproxy_import_counters_give_back(const char *, size_t, int32_t, int32_t, int32_t, int32_t);
/* Adds to a count, which begins anew with each window; 0: never. */
static inline int64_t zproxy_count(zproxy_text key, int64_t delta, uint32_t window_ms) {
    return zproxy_import_counters_add(key.data, key.length, delta, (int32_t)window_ms);
}
static inline int64_t zproxy_counted(zproxy_text key, uint32_t window_ms) {
    return zproxy_import_counters_get(key.data, key.length, (int32_t)window_ms);
}
/* Takes from a quota, or nothing. */
static inline zproxy_decision zproxy_quota_take(zproxy_text key, zproxy_quota quota, uint32_t cost) {
    zproxy_decision decision;
    zproxy_import_counters_take(key.data, key.length, (int32_t)quota.count, (int32_t)quota.period_ms,
                                (int32_t)quota.burst, (int32_t)cost, &decision);
    return decision;
}
static inline void zproxy_quota_give_back(zproxy_text key, zproxy_quota quota, uint32_t cost) {
    zproxy_import_counters_give_back(key.data, key.length, (int32_t)quota.count, (int32_t)quota.period_ms,
                                     (int32_t)quota.burst, (int32_t)cost);
}
/* Takes from all of these, or from none. -1: they were taken, and `decisions` has one for each; else the index of
 * the first that there is not enough of, and `decisions[0]` says how much there is. */
typedef struct {
    uint8_t short_of;
    union {
        struct {
            zproxy_decision *items;
            size_t count;
        } taken;
        struct {
            uint32_t index;
            zproxy_decision decision;
        } shortage;
    } as;
} zproxy_taken;
ZPROXY_IMPORT("counters", "take-all") void zproxy_import_counters_take_all(const zproxy_wanted *, size_t, zproxy_taken *);
static inline int zproxy_quota_take_all(const zproxy_wanted *wanted, size_t count, zproxy_decision *decisions) {
    zproxy_taken taken;
    zproxy_import_counters_take_all(wanted, count, &taken);
    if (taken.short_of) {
        if (count) decisions[0] = taken.as.shortage.decision;
        return (int)taken.as.shortage.index;
    }
    if (taken.as.taken.count) memcpy(decisions, taken.as.taken.items, taken.as.taken.count * sizeof *decisions);
    return -1;
}

/* Values that all workers see. Need `allow.kv`. */
typedef struct {
    uint8_t there;
    _Alignas(8) zproxy_text value;
    uint64_t version;
} zproxy_entry;
typedef struct {
    uint8_t failed;
    union {
        uint64_t version;
        uint8_t error;
    } as;
} zproxy_stored;
ZPROXY_IMPORT("kv", "get") void zproxy_import_kv_get(const char *, size_t, zproxy_entry *);
ZPROXY_IMPORT("kv", "set") void zproxy_import_kv_set(const char *, size_t, const char *, size_t, int32_t, zproxy_stored *);
ZPROXY_IMPORT("kv", "compare-and-swap") void zproxy_import_kv_swap(const char *, size_t, int32_t, int64_t, const char *, size_t,
                                                                   int32_t, zproxy_stored *);
ZPROXY_IMPORT("kv", "delete") int32_t zproxy_import_kv_delete(const char *, size_t);
/* `there` is 0 when there is none. */
static inline zproxy_entry zproxy_kv_get(zproxy_text key) {
    zproxy_entry entry;
    zproxy_import_kv_get(key.data, key.length, &entry);
    return entry;
}
/* The entry's version; 0 when the value is too large. `ttl_ms` 0: no end. */
static inline uint64_t zproxy_kv_set(zproxy_text key, zproxy_text value, uint32_t ttl_ms) {
    zproxy_stored stored;
    zproxy_import_kv_set(key.data, key.length, value.data, value.length, (int32_t)ttl_ms, &stored);
    return stored.failed ? 0 : stored.as.version;
}
/* The same, if the entry still has this version (0: if there is none); else 0. */
static inline uint64_t zproxy_kv_swap(zproxy_text key, uint64_t version, zproxy_text value, uint32_t ttl_ms) {
    zproxy_stored stored;
    zproxy_import_kv_swap(key.data, key.length, version != 0, (int64_t)version, value.data, value.length,
                          (int32_t)ttl_ms, &stored);
    return stored.failed ? 0 : stored.as.version;
}
static inline bool zproxy_kv_delete(zproxy_text key) { return zproxy_import_kv_delete(key.data, key.length); }

/* What the operator hands over by name: `allow.env`, `allow.secrets`. */
ZPROXY_IMPORT("environment", "variable") void zproxy_import_environment_variable(const char *, size_t, zproxy_option *);
ZPROXY_IMPORT("environment", "secret") void zproxy_import_environment_secret(const char *, size_t, zproxy_text *);
static inline zproxy_text zproxy_variable(zproxy_text name) {
    zproxy_option value;
    zproxy_import_environment_variable(name.data, name.length, &value);
    return value.there ? value.text : (zproxy_text){NULL, 0};
}
static inline zproxy_text zproxy_secret(zproxy_text name) {
    zproxy_text value;
    zproxy_import_environment_secret(name.data, name.length, &value);
    return value;
}

/* Asks another service and waits, while the worker goes on. Needs `allow.http`. `status` is 0 when nothing came;
 * `error` then says why, and `problem` in more words for the first three. */
typedef enum {
    ZPROXY_DENIED,
    ZPROXY_INVALID,
    ZPROXY_UNREACHABLE,
    ZPROXY_TIMEOUT,
    ZPROXY_TOO_LARGE,
    ZPROXY_BUSY,
} zproxy_callout_error;
typedef struct {
    uint16_t status;
    const zproxy_field *fields;
    size_t count;
    zproxy_text body;
    zproxy_callout_error error;
    zproxy_text problem;
} zproxy_answer;
typedef struct {
    uint8_t failed;
    union {
        struct {
            uint16_t status;
            const zproxy_field *fields;
            size_t count;
            zproxy_text body;
        } came;
        struct {
            uint8_t error;
            zproxy_text problem;
        } failure;
    } as;
} zproxy_called;
ZPROXY_IMPORT("callout", "send") void zproxy_import_callout_send(const char *, size_t, const char *, size_t, const zproxy_field *,
                                                                 size_t, const char *, size_t, int32_t, zproxy_called *);
static inline zproxy_answer zproxy_callout(zproxy_text method, zproxy_text url, const zproxy_field *fields, size_t count,
                                           zproxy_text body, uint32_t timeout_ms) {
    zproxy_called called;
    zproxy_answer answer = {0};
    zproxy_import_callout_send(method.data, method.length, url.data, url.length, fields, count, body.data, body.length,
                               (int32_t)timeout_ms, &called);
    if (called.failed) {
        answer.error = (zproxy_callout_error)called.as.failure.error;
        if (answer.error <= ZPROXY_UNREACHABLE) answer.problem = called.as.failure.problem;
        return answer;
    }
    answer.status = called.as.came.status;
    answer.fields = called.as.came.fields;
    answer.count = called.as.came.count;
    answer.body = called.as.came.body;
    return answer;
}

/* Takes the next field off a packed buffer; false at its end. */
static inline bool zproxy_next_field(zproxy_text *packed, zproxy_field *field) {
    const unsigned char *bytes = (const unsigned char *)packed->data;
    if (packed->length < 4) return false;
    size_t name = bytes[0] | bytes[1] << 8, value = bytes[2] | bytes[3] << 8;
    if (packed->length - 4 < name + value) return false;
    field->name = (zproxy_text){packed->data + 4, name};
    field->value = (zproxy_text){packed->data + 4 + name, value};
    packed->data += 4 + name + value;
    packed->length -= 4 + name + value;
    return true;
}

/* ---- Configuration: a JSON object whose values are no objects or lists --------------------------- */

typedef enum { ZPROXY_STRING, ZPROXY_NUMBER, ZPROXY_TRUE, ZPROXY_FALSE, ZPROXY_NULL } zproxy_kind;

/* Takes the next member off a configuration; begin with the whole text. 1: there was one, 0: no more,
 * -1: a value that this does not read. A string's escapes are undone, but \u above ASCII. */
static int zproxy_next_member(zproxy_text *rest, zproxy_text *key, zproxy_kind *kind, zproxy_text *value);

/* A copy of a text with a NUL at its end, which stays for the instance's life. */
static inline char *zproxy_keep(zproxy_text text) {
    char *kept = malloc(text.length + 1);
    if (!kept) abort();
    if (text.length) memcpy(kept, text.data, text.length);
    kept[text.length] = 0;
    return kept;
}

/* ---- How it works -------------------------------------------------------------------------------- */

/* Texts that the gateway hands over are put here one behind the other, and forgotten together. What does
 * not fit is allocated, and freed then. */
static _Alignas(8) char zproxy_arena[32768];
static size_t zproxy_arena_used;
static struct zproxy_block {
    struct zproxy_block *next;
    _Alignas(8) char bytes[];
} *zproxy_blocks;

static inline void zproxy_forget(void) {
    zproxy_arena_used = 0;
    while (zproxy_blocks) {
        struct zproxy_block *block = zproxy_blocks;
        zproxy_blocks = block->next;
        free(block);
    }
}

ZPROXY_EXPORT("cabi_realloc")
void *zproxy_allocate(void *old, size_t old_size, size_t align, size_t size) {
    size_t at = (zproxy_arena_used + align - 1) & ~(align - 1);
    void *new;
    if (size <= sizeof zproxy_arena && at <= sizeof zproxy_arena - size) {
        new = zproxy_arena + at;
        zproxy_arena_used = at + size;
    } else {
        struct zproxy_block *block = malloc(sizeof *block + size);
        if (!block) abort();
        block->next = zproxy_blocks;
        zproxy_blocks = block;
        new = block->bytes;
    }
    if (old_size) memcpy(new, old, old_size < size ? old_size : size);
    return new;
}

static inline void zproxy_response_append_later(const zproxy_field *fields, size_t count) {
    size_t length = 0;
    for (size_t at = 0; at < count; at++) length += 4 + fields[at].name.length + fields[at].value.length;
    unsigned char *packed = zproxy_allocate(NULL, 0, 1, length), *out = packed;
    for (size_t at = 0; at < count; at++) {
        size_t name = fields[at].name.length, value = fields[at].value.length;
        /* No field is longer than this by far; one that is would be another one. */
        if (name > 65535 || value > 65535) abort();
        out[0] = (unsigned char)name, out[1] = (unsigned char)(name >> 8);
        out[2] = (unsigned char)value, out[3] = (unsigned char)(value >> 8);
        if (name) memcpy(out + 4, fields[at].name.data, name);
        if (value) memcpy(out + 4 + name, fields[at].value.data, value);
        out += 4 + name + value;
    }
    zproxy_import_response_append_later((const char *)packed, length);
}

static struct {
    zproxy_field *items;
    size_t count;
} zproxy_problems;

static inline void zproxy_problem(const char *path, const char *message) {
    static zproxy_field items[32];
    zproxy_problems.items = items;
    if (zproxy_problems.count == sizeof items / sizeof *items) return;
    items[zproxy_problems.count++] = (zproxy_field){zproxy_string(path), zproxy_string(message)};
}

static struct {
    const zproxy_text *request_fields;
    size_t request_count;
    const zproxy_text *response_fields;
    size_t response_count;
} zproxy_registration;

static inline void zproxy_request_fields(const zproxy_text *names, size_t count) {
    zproxy_registration.request_fields = names;
    zproxy_registration.request_count = count;
}
static inline void zproxy_response_fields(const zproxy_text *names, size_t count) {
    zproxy_registration.response_fields = names;
    zproxy_registration.response_count = count;
}

ZPROXY_EXPORT("zproxy:gateway/lifecycle@0.1.0#init")
void *zproxy_export_init(const char *config, size_t length) {
    static struct {
        uint32_t refused;
        const void *words[4];
    } result;
    const char *problem = zproxy_init((zproxy_text){config, length});
    result.refused = problem != NULL;
    if (problem) {
        result.words[0] = problem;
        result.words[1] = (const void *)strlen(problem);
    } else {
        result.words[0] = zproxy_registration.request_fields;
        result.words[1] = (const void *)zproxy_registration.request_count;
        result.words[2] = zproxy_registration.response_fields;
        result.words[3] = (const void *)zproxy_registration.response_count;
    }
    return &result;
}

/* The gateway has read what init returned. */
ZPROXY_EXPORT("cabi_post_zproxy:gateway/lifecycle@0.1.0#init")
void zproxy_export_init_read(void *result) {
    (void)result;
    zproxy_forget();
}

static inline void zproxy_skip_blanks(zproxy_text *rest) {
    while (rest->length && strchr(" \t\r\n", *rest->data)) rest->data++, rest->length--;
}

static inline bool zproxy_take(zproxy_text *rest, char wanted) {
    zproxy_skip_blanks(rest);
    if (!rest->length || *rest->data != wanted) return false;
    rest->data++, rest->length--;
    return true;
}

static inline bool zproxy_take_string(zproxy_text *rest, zproxy_text *string) {
    if (!zproxy_take(rest, '"')) return false;
    char *out = zproxy_allocate(NULL, 0, 1, rest->length);
    *string = (zproxy_text){out, 0};
    while (rest->length) {
        char letter = *rest->data++;
        rest->length--;
        if (letter == '"') return true;
        if (letter == '\\') {
            static const char escapes[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
            if (!rest->length) return false;
            const char *escape = strchr(escapes, *rest->data);
            if (escape && *escape) {
                letter = meanings[escape - escapes];
            } else if (*rest->data == 'u' && rest->length >= 5) {
                char digits[5] = {0};
                memcpy(digits, rest->data + 1, 4);
                unsigned long code = strtoul(digits, NULL, 16);
                if (code == 0 || code > 127) return false;
                letter = (char)code;
                rest->data += 4, rest->length -= 4;
            } else {
                return false;
            }
            rest->data++, rest->length--;
        }
        out[string->length++] = letter;
    }
    return false;
}

static inline int zproxy_next_member(zproxy_text *rest, zproxy_text *key, zproxy_kind *kind, zproxy_text *value) {
    if (!zproxy_take(rest, '{') && !zproxy_take(rest, ',')) return zproxy_take(rest, '}') ? 0 : -1;
    if (zproxy_take(rest, '}')) return 0;
    if (!zproxy_take_string(rest, key) || !zproxy_take(rest, ':')) return -1;
    zproxy_skip_blanks(rest);
    if (rest->length && *rest->data == '"') {
        *kind = ZPROXY_STRING;
        return zproxy_take_string(rest, value) ? 1 : -1;
    }
    *value = (zproxy_text){rest->data, 0};
    while (rest->length && !strchr(",} \t\r\n{[", *rest->data)) rest->data++, rest->length--, value->length++;
    if (zproxy_equal(*value, ZPROXY_TEXT("true"))) *kind = ZPROXY_TRUE;
    else if (zproxy_equal(*value, ZPROXY_TEXT("false"))) *kind = ZPROXY_FALSE;
    else if (zproxy_equal(*value, ZPROXY_TEXT("null"))) *kind = ZPROXY_NULL;
    else if (value->length && strchr("-0123456789", *value->data)) *kind = ZPROXY_NUMBER;
    else return -1;
    return 1;
}

#endif
