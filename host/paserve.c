// paserve.c: a duet with the model in the browser: options in, host/serve/ serves until a signal, exit status out.
#include <string.h>
#include <unistd.h>

#include "host/base/cli.h"
#include "host/files/mapping.h"
#include "host/files/model_path.h"
#include "host/play/library.h"
#include "host/play/sound.h"
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

static const char SAMPLES[] = "/piano.pcm";

static void supply(void *arg, const pa_samples *samples) {
    pa_server_supply(arg, SAMPLES, samples->frame, samples->frames * sizeof *samples->frame);
}

// *found: a SoundFont; without one the page plays plain tones.
static pa_status find_sound(const char **found, pa_err *err) {
    pa_err why;
    *found = NULL;
    if (no_sound) return PA_OK;
    pa_status e = pa_sound_font(font, found, &why);
    if (!e) return PA_OK;
    *found = NULL;
    if (font || e != PA_USAGE) return pa_error(err, e, "%s", why.text);
    fprintf(stderr, "paserve: the page plays plain tones: %s\n", why.text);
    return PA_OK;
}

static pa_status start(pa_server **s, pa_player **p, const char *sound, pa_err *err) {
    pa_asset asset[SERVE_PAGES + 1];
    memcpy(asset, serve_page, sizeof serve_page);
    asset[SERVE_PAGES] = (pa_asset){SAMPLES, "application/octet-stream", NULL, 0};
    player.piano = sound ? pa_samples_json : "null";
    player.font = font;
    pa_status e = pa_server_open(s, address, (int)port, asset, SERVE_PAGES + !!sound, err);
    if (!e) e = pa_player_open(p, &player, pa_server_hub(*s), err);
    return e ? e : pa_player_start(*p, err);
}

static pa_status serve(const char *sound, pa_err *err) {
    static pa_samples samples;
    pa_player *p = NULL;
    pa_server *s = NULL;
    pa_err why;
    char url[PA_LONGEST_URL];
    pa_status e = start(&s, &p, sound, err);
    if (!e) {
        server = s;
        catch_signals();
        pa_server_url(s, url);
        printf("Open %s in a browser; Ctrl-C stops and saves.\nIt plays with %s.\n", url, pa_player_model(p));
        fflush(stdout);
        if (sound) e = pa_samples_begin(&samples, sound, supply, s, err);
    }
    if (!e) pa_server_run(s, &stopped);
    bool ended = !p || pa_player_stop(p);
    server = NULL;
    pa_server_hang_up(s); // its clients hold descriptors, which saving needs
    pa_status saved = p ? pa_player_save(p, &why) : PA_OK;
    if (saved && !e) e = pa_error(err, saved, "%s", why.text);
    if (!pa_samples_end(&samples) || !ended) _exit(pa_cli_end(&program, e, err)); // nothing can stop what renders
    pa_player_close(p);
    pa_server_close(s);
    return e;
}

static pa_status run(int argc, char **argv, pa_err *err) {
    bool done;
    int given;
    const char *sound;
    pa_reader reader;
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
    e = find_sound(&sound, err);
    if (!e) e = pa_reader_start(&reader, err); // before any other thread
    if (e) return e;
    player.reader = &reader;
    e = serve(sound, err);
    pa_reader_stop(&reader);
    return e;
}

int main(int argc, char **argv) {
    pa_err err = {""};
    pa_cli_spin_briefly(argv);
    pa_mapping_guard();
    return pa_cli_end(&program, run(argc, argv, &err), &err);
}
