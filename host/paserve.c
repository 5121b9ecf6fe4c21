// paserve.c: a duet with the model in the browser: options in, host/serve/ serves until a signal, exit status out.
#include <string.h>

#include "host/base/cli.h"
#include "host/files/mapping.h"
#include "host/files/model_path.h"
#include "host/play/library.h"
#include "host/serve/engines.h"
#include "host/serve/player.h"
#include "host/serve/samples.h"
#include "host/serve/server.h"
#include "serve_pages.h"

static int64_t port = 8080, streams = 2, threads;
static bool no_sound;
static const char *address = pa_this_machine, *font;
static pa_player_options player = {.model = "piano",
                                   .folder = "duets",
                                   .how = {.size = sizeof(patrain_options), .device = "auto", .precision = "auto"}};
static bool int8;

static const pa_option option[] = {
    {"port", PA_OPT_INT, &port, "N", "port; 0: any free one", "Server"},
    {"listen", PA_OPT_STRING, &address, "ADDRESS",
     "IPv4 address; other machines can then connect with the token of the printed URL", NULL},
    {"folder", PA_OPT_STRING, &player.folder, "DIR", "folder where takes are saved when the server stops", NULL},
    {"streams", PA_OPT_INT, &streams, "N", "duets kept ready at the same time", NULL},
    {"soundfont", PA_OPT_STRING, &font, "F.sf2", "SoundFont of the piano (default: an installed one)", "Sound"},
    {"no-sound", PA_OPT_FLAG, &no_sound, NULL, "no samples: the page plays plain tones", NULL},
    {"device", PA_OPT_CHOICE, &player.how.device, "auto|cpu|cuda", "compute device", "Device"},
    {"precision", PA_OPT_CHOICE, &player.how.precision, "auto|fp32|bf16|fp16",
     "precision of matrix products and attention", NULL},
    {"int8", PA_OPT_FLAG, &int8, NULL, "round the weights of matrix products to 8 bits", NULL},
    {"threads", PA_OPT_INT, &threads, "N", "CPU threads; 0: all", NULL},
};
static const pa_program program = {.name = "paserve",
                                   .summary = "Plays a duet with a trained model in the browser.",
                                   .usage = "[CHECKPOINT] [options]",
                                   .note = PA_CHECKPOINT_NOTE ".\nDefault: piano",
                                   .example = "paserve\npaserve runs/mine --port 8000",
                                   .option = option,
                                   .options = sizeof option / sizeof *option};

static volatile sig_atomic_t stopped;
static pa_server *volatile server; // NULL: a signal wakes nothing
static void on_signal(int number) {
    (void)number;
    stopped = 1;
    if (server) pa_server_wake(server);
}

// A second request ends the program at once.
static void catch_signals(void) {
    struct sigaction a = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
    sigaction(SIGHUP, &a, NULL);
    signal(SIGPIPE, SIG_IGN);
}

static pa_status check_options(int given, pa_err *err) {
    const struct {
        const char *name;
        int64_t value, least, most;
    } range[] = {{"port", port, 0, 65535}, {"streams", streams, 1, PA_MOST_STREAMS}, {"threads", threads, 0, 1024}};
    if (given > 1)
        return pa_error(err, PA_USAGE,
                        "expected at most CHECKPOINT before the options, found %d arguments (paserve --help)", given);
    for (size_t i = 0; i < sizeof range / sizeof *range; i++)
        if (range[i].value < range[i].least || range[i].value > range[i].most)
            return pa_error(err, PA_USAGE, "--%s: expected %lld to %lld, found %lld", range[i].name,
                            (long long)range[i].least, (long long)range[i].most, (long long)range[i].value);
    return PA_OK;
}

static pa_status render(pa_samples *samples, pa_err *err) {
    pa_samples_clear(samples);
    if (no_sound) return PA_OK;
    pa_err why;
    pa_status e = pa_samples_render(samples, font, &why);
    if (e && (font || e != PA_USAGE)) return pa_error(err, e, "%s", why.text);
    if (e) fprintf(stderr, "paserve: the page plays plain tones: %s\n", why.text);
    return PA_OK;
}

static pa_status serve(const pa_samples *samples, pa_err *err) {
    pa_player *p = NULL;
    pa_server *s = NULL;
    pa_err why;
    char url[PA_LONGEST_URL];
    pa_asset asset[SERVE_PAGES + 1];
    size_t assets = SERVE_PAGES;
    memcpy(asset, serve_page, sizeof serve_page);
    if (samples->frame)
        asset[assets++] = (pa_asset){"/piano.pcm", "application/octet-stream", (const unsigned char *)samples->frame,
                                     samples->frames * sizeof *samples->frame};
    pa_status e = pa_server_open(&s, address, (int)port, asset, assets, err);
    if (!e) e = pa_player_open(&p, &player, pa_server_hub(s), err);
    if (!e) e = pa_player_start(p, err);
    if (!e) {
        server = s;
        catch_signals();
        pa_server_url(s, url);
        printf("%s: %s (Ctrl-C stops)\n", pa_player_model(p), url);
        fflush(stdout);
        pa_server_run(s, &stopped);
    }
    pa_status saved = p ? pa_player_stop(p, &why) : PA_OK;
    if (saved && !e) e = pa_error(err, saved, "%s", why.text);
    pa_player_close(p); // its threads still use the server's hub
    server = NULL;
    pa_server_close(s);
    return e;
}

static pa_status run(int argc, char **argv, pa_err *err) {
    bool done;
    int given;
    pa_samples samples = {0};
    pa_status e = pa_cli_parse(&program, argc, argv, &given, &done, err);
    if (e || done) return e;
    setvbuf(stdout, NULL, _IOLBF, 0);
    e = check_options(given, err);
    if (e) return e;
    if (given) player.model = argv[1];
    player.streams = (int)streams;
    player.how.int8 = int8;
    player.how.threads = (int)threads;
    player.how.device = pa_choose_device(player.how.device);
    e = render(&samples, err);
    player.piano = samples.json;
    player.font = font;
    if (!e) e = serve(&samples, err);
    pa_samples_clear(&samples);
    return e;
}

int main(int argc, char **argv) {
    pa_err err = {""};
    pa_cli_spin_briefly(argv);
    pa_mapping_guard();
    return pa_cli_end(&program, run(argc, argv, &err), &err);
}
