// server.c: see server.h.
#include "host/serve/server.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <libwebsockets.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <unistd.h>

static_assert(PA_ROOM_BEFORE >= LWS_PRE, "room for libwebsockets' header");

enum {
    PART = 32 << 10,
    HEADERS = 2048,
    HOST = 128,
    TOKEN = 32,
    COOKIE = 32,
    COOKIES = 4096, // libwebsockets' limit of all headers of a request
    MOST_SOCKETS = 400,
    LEAST_SOCKETS = 8,
    OTHER_FILES = 48, // descriptors that sockets leave to the rest: the model, the sound, the takes that are saved
};

const char pa_this_machine[] = "127.0.0.1";

typedef struct {
    pa_asset is;
    bool awaited; // its bytes come later
} supply;

// Of a connection.
typedef struct {
    uint64_t client; // 0: HTTP
    unsigned char *in;
    size_t held, room;
    const supply *asset;
    bool begun; // the asset's header was sent
    size_t sent;
} connection;

struct pa_server {
    pthread_mutex_t lock;
    struct lws_context *context; // NULL: hung up; other threads look under the lock
    struct lws_protocols protocol[2];
    pa_hub *hub;
    supply asset[PA_MOST_ASSETS]; // under the lock where awaited
    size_t assets;
    struct in_addr address;
    int port;
    char token[TOKEN + 1]; // hexadecimal; empty at pa_this_machine
    char cookie[COOKIE];   // name: ports of a machine share their cookies
};

static void wake(void *arg) {
    pa_server *s = arg;
    pthread_mutex_lock(&s->lock);
    pa_server_wake(s);
    pthread_mutex_unlock(&s->lock);
}

void pa_server_wake(pa_server *s) {
    if (s->context) lws_cancel_service(s->context);
}

// ---- who may ask

static bool is_our_host(const pa_server *s, const char *host) {
    const char *const name[] = {pa_this_machine, "localhost"};
    for (size_t i = 0; i < sizeof name / sizeof *name; i++) {
        char ours[HOST];
        snprintf(ours, sizeof ours, "%s:%d", name[i], s->port);
        if (!strcmp(host, ours) || (s->port == 80 && !strcmp(host, name[i]))) return true;
    }
    return false;
}

// Takes the same time wherever they differ.
static bool is_token(const pa_server *s, const char *given) {
    unsigned char differs = 0;
    if (strlen(given) != TOKEN) return false;
    for (int i = 0; i < TOKEN; i++) differs |= (unsigned char)(s->token[i] ^ given[i]);
    return !differs;
}

static bool has_token_in_url(const pa_server *s, struct lws *wsi) {
    char text[HOST];
    const char *given = lws_get_urlarg_by_name(wsi, "token=", text, sizeof text);
    return given && is_token(s, given);
}

static bool is_among(const pa_server *s, char *cookies) {
    char *rest;
    size_t name = strlen(s->cookie);
    for (char *c = strtok_r(cookies, "; ", &rest); c; c = strtok_r(NULL, "; ", &rest))
        if (!strncmp(c, s->cookie, name) && c[name] == '=' && is_token(s, c + name + 1)) return true;
    return false;
}

// In any of the headers, and among cookies of other paths that have its name.
static bool has_cookie(const pa_server *s, struct lws *wsi) {
    char text[COOKIES];
    for (int i = 0; lws_hdr_copy_fragment(wsi, text, sizeof text, WSI_TOKEN_HTTP_COOKIE, i) >= 0; i++)
        if (is_among(s, text)) return true;
    return false;
}

static bool is_to_us(const pa_server *s, struct lws *wsi) {
    char host[HOST];
    if (*s->token) return has_token_in_url(s, wsi) || has_cookie(s, wsi);
    return lws_hdr_copy(wsi, host, sizeof host, WSI_TOKEN_HOST) > 0 && is_our_host(s, host);
}

static bool is_from_us(struct lws *wsi) {
    char host[HOST], origin[HOST + 8];
    return lws_hdr_copy(wsi, host, sizeof host, WSI_TOKEN_HOST) > 0 &&
           lws_hdr_copy(wsi, origin, sizeof origin, WSI_TOKEN_ORIGIN) > 0 && !strncmp(origin, "http://", 7) &&
           !strcmp(origin + 7, host);
}

// ---- pages

static bool is_head(struct lws *wsi) {
    return lws_hdr_total_length(wsi, WSI_TOKEN_HEAD_URI) > 0;
}

static int add_header(struct lws *wsi, const char *name, const char *text, unsigned char **at, unsigned char *end) {
    return lws_add_http_header_by_name(wsi, (const unsigned char *)name, (const unsigned char *)text, (int)strlen(text),
                                       at, end);
}

static int refuse(struct lws *wsi, unsigned code, const char *why) {
    unsigned char text[LWS_PRE + HEADERS], *at = text + LWS_PRE, *const end = text + sizeof text - 1;
    size_t n = strlen(why);
    if (lws_add_http_common_headers(wsi, code, "text/plain; charset=utf-8", n, &at, end) ||
        (code == HTTP_STATUS_METHOD_NOT_ALLOWED && add_header(wsi, "allow:", "GET, HEAD", &at, end)) ||
        lws_finalize_write_http_header(wsi, text + LWS_PRE, &at, end))
        return -1;
    memcpy(text + LWS_PRE, why, n);
    if (!is_head(wsi) && lws_write(wsi, text + LWS_PRE, n, LWS_WRITE_HTTP_FINAL) < (int)n) return -1;
    return lws_http_transaction_completed(wsi) ? -1 : 0;
}

static int set_cookie(const pa_server *s, struct lws *wsi, unsigned char **at, unsigned char *end) {
    char text[COOKIE + TOKEN + 64];
    snprintf(text, sizeof text, "%s=%s; HttpOnly; SameSite=Strict; Path=/", s->cookie, s->token);
    return add_header(wsi, "set-cookie:", text, at, end);
}

static bool is_awaited(pa_server *s, const supply *a) {
    pthread_mutex_lock(&s->lock);
    bool awaited = a->awaited;
    pthread_mutex_unlock(&s->lock);
    return awaited;
}

static int send_head(pa_server *s, struct lws *wsi, connection *c) {
    unsigned char header[LWS_PRE + HEADERS], *at = header + LWS_PRE, *const end = header + sizeof header - 1;
    const pa_asset *a = &c->asset->is;
    if (lws_add_http_common_headers(wsi, HTTP_STATUS_OK, a->type, a->count, &at, end) ||
        add_header(wsi, "cache-control:", "no-cache", &at, end) ||
        (*s->token && has_token_in_url(s, wsi) && set_cookie(s, wsi, &at, end)) ||
        lws_finalize_write_http_header(wsi, header + LWS_PRE, &at, end))
        return -1;
    c->begun = true;
    if (!is_head(wsi)) return lws_callback_on_writable(wsi) < 0 ? -1 : 0;
    c->asset = NULL;
    return lws_http_transaction_completed(wsi) ? -1 : 0;
}

static int send_part(struct lws *wsi, connection *c) {
    unsigned char part[LWS_PRE + PART];
    size_t left = c->asset->is.count - c->sent, n = left < PART ? left : PART;
    memcpy(part + LWS_PRE, c->asset->is.bytes + c->sent, n);
    c->sent += n;
    bool last = c->sent == c->asset->is.count;
    if (lws_write(wsi, part + LWS_PRE, n, last ? LWS_WRITE_HTTP_FINAL : LWS_WRITE_HTTP) < (int)n) return -1;
    if (!last) return lws_callback_on_writable(wsi) < 0 ? -1 : 0;
    c->asset = NULL;
    return lws_http_transaction_completed(wsi) ? -1 : 0;
}

static int proceed_with_page(pa_server *s, struct lws *wsi, connection *c) {
    if (!c->asset || is_awaited(s, c->asset)) return 0;
    if (c->begun) return send_part(wsi, c);
    if (c->asset->is.bytes) return send_head(s, wsi, c);
    c->asset = NULL;
    return refuse(wsi, HTTP_STATUS_NOT_FOUND, "No such page.");
}

static int begin_page(pa_server *s, struct lws *wsi, connection *c, const char *path) {
    *c = (connection){0};
    if (!is_to_us(s, wsi))
        return refuse(wsi, HTTP_STATUS_FORBIDDEN,
                      *s->token ? "Open the address that paserve printed at its start: the token is new each time."
                                : "This server answers to its own address only.");
    if (!is_head(wsi) && !lws_hdr_total_length(wsi, WSI_TOKEN_GET_URI))
        return refuse(wsi, HTTP_STATUS_METHOD_NOT_ALLOWED, "Only GET and HEAD are allowed.");
    for (size_t i = 0; i < s->assets && !c->asset; i++)
        if (!strcmp(s->asset[i].is.path, path)) c->asset = &s->asset[i];
    if (!c->asset) return refuse(wsi, HTTP_STATUS_NOT_FOUND, "No such page.");
    if (is_awaited(s, c->asset)) lws_set_timeout(wsi, NO_PENDING_TIMEOUT, 0);
    return proceed_with_page(s, wsi, c);
}

// ---- sockets

static int close_with(struct lws *wsi, enum lws_close_status status, const char *why) {
    unsigned char text[120];
    size_t n = strlen(why) < sizeof text ? strlen(why) : sizeof text;
    memcpy(text, why, n);
    lws_close_reason(wsi, status, text, n);
    return -1;
}

static bool hold(connection *c, const void *bytes, size_t count) {
    if (!c->in || c->held + count > c->room) { // an empty message has memory too
        size_t room = 2 * (c->held + count) + 256;
        if (room > PA_LONGEST_UPLOAD) room = PA_LONGEST_UPLOAD; // none is longer
        unsigned char *larger = realloc(c->in, room);
        if (!larger) return false;
        c->in = larger;
        c->room = room;
    }
    if (count) memcpy(c->in + c->held, bytes, count);
    c->held += count;
    return true;
}

// A message that has come whole.
static int take_message(pa_server *s, struct lws *wsi, connection *c, bool binary) {
    pa_message m = {.deed = PA_DO_UPLOAD, .bytes = c->in, .count = c->held};
    pa_err why;
    if (!binary) {
        pa_status e = pa_message_parse((const char *)c->in, c->held, &m, &why);
        c->held = 0;
        if (e) return close_with(wsi, LWS_CLOSE_STATUS_POLICY_VIOLATION, why.text);
    } else {
        c->in = NULL;
        c->held = c->room = 0;
    }
    return pa_hub_ask(s->hub, c->client, &m) ? 0
                                             : close_with(wsi, LWS_CLOSE_STATUS_POLICY_VIOLATION, "too many requests");
}

static int receive(pa_server *s, struct lws *wsi, connection *c, const void *bytes, size_t count) {
    bool binary = lws_frame_is_binary(wsi) != 0;
    if (c->held + count > (size_t)(binary ? PA_LONGEST_UPLOAD : PA_LONGEST_MESSAGE))
        return close_with(wsi, LWS_CLOSE_STATUS_MESSAGE_TOO_LARGE, binary ? "a file may have 1 MiB" : "too long");
    if (!hold(c, bytes, count)) return -1;
    if (lws_remaining_packet_payload(wsi) || !lws_is_final_fragment(wsi)) return 0;
    return take_message(s, wsi, c, binary);
}

static int send_reply(pa_server *s, struct lws *wsi, connection *c) {
    bool more;
    if (pa_hub_is_slow(s->hub, c->client)) return close_with(wsi, LWS_CLOSE_STATUS_POLICY_VIOLATION, "too slow");
    pa_reply *r = pa_hub_reply(s->hub, c->client, &more);
    if (!r) return 0;
    int sent = lws_write(wsi, r->room + PA_ROOM_BEFORE, r->count, r->binary ? LWS_WRITE_BINARY : LWS_WRITE_TEXT);
    bool failed = sent < (int)r->count;
    free(r);
    if (more) lws_callback_on_writable(wsi);
    return failed ? -1 : 0;
}

static int establish(pa_server *s, struct lws *wsi, connection *c) {
    *c = (connection){.client = pa_hub_join(s->hub)};
    return c->client ? 0 : close_with(wsi, LWS_CLOSE_STATUS_POLICY_VIOLATION, "too many connections");
}

static void leave(pa_server *s, connection *c) {
    if (c->client) pa_hub_leave(s->hub, c->client);
    free(c->in);
    *c = (connection){0};
}

static int serve(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t length) {
    struct lws_context *context = lws_get_context(wsi);
    pa_server *s = context ? lws_context_user(context) : NULL;
    connection *c = user;
    switch (reason) {
    case LWS_CALLBACK_HTTP:
        return begin_page(s, wsi, c, in);
    case LWS_CALLBACK_HTTP_WRITEABLE:
        return proceed_with_page(s, wsi, c);
    case LWS_CALLBACK_HTTP_CONFIRM_UPGRADE: // to HTTP/2 it would come before is_to_us
        return strcasecmp(in, "websocket") ? -1 : 0;
    case LWS_CALLBACK_RAW_ADOPT: // after CONNECT
        return -1;
    case LWS_CALLBACK_FILTER_PROTOCOL_CONNECTION:
        if (is_to_us(s, wsi) && is_from_us(wsi)) return 0;
        lws_return_http_status(wsi, HTTP_STATUS_FORBIDDEN, "Only this server's own pages may connect.");
        return -1;
    case LWS_CALLBACK_ESTABLISHED:
        return establish(s, wsi, c);
    case LWS_CALLBACK_RECEIVE:
        return receive(s, wsi, c, in, length);
    case LWS_CALLBACK_SERVER_WRITEABLE:
        return send_reply(s, wsi, c);
    case LWS_CALLBACK_CLOSED:
        leave(s, c);
        return 0;
    case LWS_CALLBACK_EVENT_WAIT_CANCELLED:
        lws_callback_on_writable_all_protocol(context, &s->protocol[0]);
        return 0;
    default:
        return 0;
    }
}

// ---- life

// Whether the port is free, with the reason where it isn't; of 0, one that is.
static pa_status probe(pa_server *s, const char *address, int port, pa_err *err) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr = s->address};
    socklen_t size = sizeof a;
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool bound = fd >= 0 && !setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) &&
                 !bind(fd, (struct sockaddr *)&a, sizeof a) && !listen(fd, 1) &&
                 !getsockname(fd, (struct sockaddr *)&a, &size);
    pa_status e = PA_OK;
    if (!bound && errno == EADDRNOTAVAIL)
        e = pa_error(err, PA_USAGE, "--listen: expected an address of this machine or 0.0.0.0, found %s", address);
    else if (!bound)
        e = pa_error(err, PA_FAIL, "cannot listen on %s:%d: %s", address, port, strerror(errno));
    s->port = ntohs(a.sin_port);
    if (fd >= 0) close(fd);
    return e;
}

static bool is_of_one_machine(struct in_addr address) {
    uint32_t a = ntohl(address.s_addr);
    return !IN_MULTICAST(a) && a != INADDR_BROADCAST;
}

// *sockets: how many there may be at a time, so that files can be opened beside them.
static pa_status count_sockets(unsigned *sockets, pa_err *err) {
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files)) return pa_error(err, PA_FAIL, "cannot read ulimit -n: %s", strerror(errno));
    rlim_t wanted = MOST_SOCKETS + OTHER_FILES;
    if (files.rlim_cur < wanted) {
        files.rlim_cur = files.rlim_max < wanted ? files.rlim_max : wanted;
        setrlimit(RLIMIT_NOFILE, &files); // as far as it may be
        getrlimit(RLIMIT_NOFILE, &files);
    }
    if (files.rlim_cur < LEAST_SOCKETS + OTHER_FILES)
        return pa_error(err, PA_FAIL, "expected room for %d open files, found %llu; set it with ulimit -n",
                        LEAST_SOCKETS + OTHER_FILES, (unsigned long long)files.rlim_cur);
    *sockets = (unsigned)(files.rlim_cur < wanted ? files.rlim_cur - OTHER_FILES : MOST_SOCKETS);
    return PA_OK;
}

pa_status pa_server_open(pa_server **server, const char *address, int port, const pa_asset *asset, size_t assets,
                         pa_err *err) {
    static const lws_retry_bo_t idle = {.secs_since_valid_ping = 60, .secs_since_valid_hangup = 90};
    pa_server *s = *server = calloc(1, sizeof *s);
    assert(assets <= PA_MOST_ASSETS);
    if (s) pthread_mutex_init(&s->lock, NULL);
    if (!s || !(s->hub = pa_hub_open(wake, s))) return pa_error(err, PA_FAIL, "no memory for a server");
    if (inet_pton(AF_INET, address, &s->address) != 1)
        return pa_error(err, PA_USAGE, "--listen: expected an IPv4 address such as 192.168.1.5 or 0.0.0.0, found '%s'",
                        address);
    if (!is_of_one_machine(s->address))
        return pa_error(err, PA_USAGE, "--listen: expected an address of this machine or 0.0.0.0, found %s", address);
    unsigned sockets = 0;
    pa_status e = count_sockets(&sockets, err);
    if (!e) e = probe(s, address, port, err);
    if (!e && strcmp(address, pa_this_machine) != 0) e = pa_random_digits(s->token, TOKEN, err);
    if (e) return e;
    snprintf(s->cookie, sizeof s->cookie, "paserve-%d", s->port);
    for (; s->assets < assets; s->assets++) s->asset[s->assets] = (supply){asset[s->assets], !asset[s->assets].bytes};
    s->protocol[0] = (struct lws_protocols){
        .name = "paserve", .callback = serve, .per_session_data_size = sizeof(connection), .rx_buffer_size = 4096};
    struct lws_context_creation_info info = {.port = s->port,
                                             .iface = s->address.s_addr ? address : NULL,
                                             .protocols = s->protocol,
                                             .user = s,
                                             .gid = (gid_t)-1,
                                             .uid = (uid_t)-1,
                                             .timeout_secs = 10,
                                             .keepalive_timeout = 10,
                                             .max_http_header_pool = 64,
                                             .fd_limit_per_thread = sockets,
                                             .retry_and_idle_policy = &idle,
                                             .server_string = "paserve"};
    info.options = LWS_SERVER_OPTION_FAIL_UPON_UNABLE_TO_BIND | LWS_SERVER_OPTION_DISABLE_IPV6 |
                   LWS_SERVER_OPTION_HTTP_HEADERS_SECURITY_BEST_PRACTICES_ENFORCE | LWS_SERVER_OPTION_VALIDATE_UTF8;
    lws_set_log_level(0, NULL);
    s->context = lws_create_context(&info);
    return s->context ? PA_OK : pa_error(err, PA_FAIL, "cannot listen on %s:%d", address, s->port);
}

void pa_server_hang_up(pa_server *s) {
    if (!s) return;
    pthread_mutex_lock(&s->lock);
    struct lws_context *context = s->context;
    s->context = NULL;
    pthread_mutex_unlock(&s->lock);
    if (context) lws_context_destroy(context);
}

void pa_server_close(pa_server *s) {
    if (!s) return;
    pa_server_hang_up(s);
    pa_hub_close(s->hub);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

// This machine's towards others; a name would have to be known to them. Nothing is sent.
static struct in_addr address_outside(void) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(9)}; // any port
    socklen_t size = sizeof a;
    inet_pton(AF_INET, "192.0.2.1", &a.sin_addr); // an address that nobody has (RFC 5737)
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bool found =
        fd >= 0 && !connect(fd, (struct sockaddr *)&a, sizeof a) && !getsockname(fd, (struct sockaddr *)&a, &size);
    if (fd >= 0) close(fd);
    if (!found) a.sin_addr.s_addr = htonl(INADDR_LOOPBACK); // there is no network
    return a.sin_addr;
}

void pa_server_url(const pa_server *s, char url[PA_LONGEST_URL]) {
    char host[INET_ADDRSTRLEN] = "";
    struct in_addr address = s->address.s_addr ? s->address : address_outside();
    inet_ntop(AF_INET, &address, host, sizeof host);
    snprintf(url, PA_LONGEST_URL, "http://%s:%d/%s%s", host, s->port, *s->token ? "?token=" : "", s->token);
}

void pa_server_supply(pa_server *s, const char *path, const void *bytes, size_t count) {
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < s->assets; i++) {
        supply *a = &s->asset[i];
        if (strcmp(a->is.path, path) != 0) continue;
        a->is.bytes = bytes;
        a->is.count = count;
        a->awaited = false;
    }
    pa_server_wake(s);
    pthread_mutex_unlock(&s->lock);
}

pa_hub *pa_server_hub(pa_server *s) {
    return s->hub;
}

void pa_server_run(pa_server *s, const volatile sig_atomic_t *stop) {
    while (!*stop && lws_service(s->context, 0) >= 0) {}
}
