// server.h: pages and WebSockets on a port, by libwebsockets. Knows nothing of music.
#ifndef PA_SERVER_H
#define PA_SERVER_H

#include <signal.h>

#include "host/serve/hub.h"

typedef struct {
    const char *path; // "/"
    const char *type; // of its content
    const unsigned char *bytes;
    size_t count;
} pa_asset;

enum { PA_MOST_ASSETS = 32 };

typedef struct pa_server pa_server;

enum { PA_LONGEST_URL = 160 };
extern const char pa_this_machine[]; // its loopback address

// Binds the port of an IPv4 address, 0 for a free one, and makes the hub. The assets' bytes stay the caller's; where
// they are NULL, who asks for them waits until pa_server_supply. Only pages from
// here get a WebSocket, so that no other site's page can reach it. At pa_this_machine only requests whose Host is that
// address are answered. At any other, only those with a token: as the query of the URL, then as the cookie that the
// reply sets.
pa_status pa_server_open(pa_server **server, const char *address, int port, const pa_asset *asset, size_t assets,
                         pa_err *err);
void pa_server_hang_up(pa_server *s); // ends all connections
void pa_server_close(pa_server *s);
// What a browser is to open, the token included.
void pa_server_url(const pa_server *s, char url[PA_LONGEST_URL]);
// The bytes of the asset of that path. NULL: it has none. Any thread.
void pa_server_supply(pa_server *s, const char *path, const void *bytes, size_t count);
pa_hub *pa_server_hub(pa_server *s);
// Serves until *stop; pa_server_wake makes it look, from a signal handler too.
void pa_server_run(pa_server *s, const volatile sig_atomic_t *stop);
void pa_server_wake(pa_server *s);

#endif
