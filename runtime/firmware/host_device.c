/* The controller reference as a process behind a pseudo-terminal: what a microcontroller would be behind a USB port.
 *
 *   host_device HZ PROFILE HASH NM NM_S TTL_MS [STRIDE_HZ]
 *
 * prints "port PATH" for a host to open, then one line per change:
 *   T_US state STATE reason REASON        when the state machine moves
 *   T_US torque RIGHT LEFT                when the commanded torque changes
 * It lives until SIGTERM or a quit request; then it prints its counters, how long the answers to its samples took, and
 * its own longest wait between two ticks. SIGUSR1 presses the emergency stop, SIGUSR2 lets it go. T_US is
 * CLOCK_MONOTONIC.
 *
 * Somebody wears it who does as the host asks: stands (at first), lifts a thigh, walks with STRIDE_HZ strides a second
 * (default 0.9) or with those that belong to the speed asked for. The gyroscopes hiss and have a bias. HASH "echo" makes
 * it the other half of a measurement: samples from the start, no controller, and what comes back is only timed.
 */
#define _XOPEN_SOURCE 700

#include "exo_controller.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define TICK_US 1000u
#define FORWARD_RAD_S 3.2f  /* the swinging thigh */
#define BACKWARD_RAD_S 2.1f /* the standing one: longer and slower, so that the thigh comes back to where it was */
#define FORWARD_SHARE 0.4f  /* of the stride */
#define LIFT_RAD_S 1.8f
#define LIFT_S 1.2
#define NOISE_RAD_S 0.01f
#define BIN_US 5u
#define BINS 20000u /* to 0.1 s */

enum doing { WALK = 0, STAND = 1, LIFT_RIGHT = 2, LIFT_LEFT = 3, SIT = 4, QUIT = 5 }; /* as in request frames */

/* Who wears it. */
typedef struct {
    enum doing doing;
    uint64_t since_us;
    float own_stride_hz;
    float stride_hz;
    float torque_nm[2]; /* what a torque sensor would read: the command behind a first-order lag */
    uint32_t noise;
} wearer;

/* Sensor to command, from writing the frame to reading its answer. */
typedef struct {
    uint32_t bins[BINS];
    uint32_t count;
    uint64_t longest_us;
    uint32_t next; /* sequence of the next sample, in echo mode */
    uint64_t sent_us[EXO_SENT_MEMORY];
} stopwatch;

static const float bias_rad_s[2] = {0.03f, -0.02f};
static volatile sig_atomic_t stopped = 0;
static volatile sig_atomic_t emergency = 0;

static void on_signal(int number)
{
    if (number == SIGUSR1) {
        emergency = 1;
    } else if (number == SIGUSR2) {
        emergency = 0;
    } else {
        stopped = 1;
    }
}

static uint64_t clock_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

/* A raw pty. The slave end stays open here, so that a host may come and go without ending the device. */
static int open_port(int *slave)
{
    struct termios mode;
    const int master = posix_openpt(O_RDWR | O_NOCTTY);
    if (master < 0 || grantpt(master) != 0 || unlockpt(master) != 0) {
        return -1;
    }
    *slave = open(ptsname(master), O_RDWR | O_NOCTTY);
    if (*slave < 0 || tcgetattr(*slave, &mode) != 0) {
        return -1;
    }
    mode.c_iflag &= ~(tcflag_t)(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
    mode.c_oflag &= ~(tcflag_t)OPOST;
    mode.c_lflag &= ~(tcflag_t)(ECHO | ECHONL | ICANON | ISIG | IEXTEN);
    mode.c_cflag = (mode.c_cflag & ~(tcflag_t)(CSIZE | PARENB)) | CS8;
    if (tcsetattr(*slave, TCSANOW, &mode) != 0 || fcntl(master, F_SETFL, O_NONBLOCK) != 0) {
        return -1;
    }
    return master;
}

/* Half a wave from 0 to 1 and back over x in 0..1: a parabola, near enough to a sine without <math.h>. */
static float hump(float x)
{
    return x > 0.0f && x < 1.0f ? 4.0f * x * (1.0f - x) : 0.0f;
}

/* Uniform, mean 0. */
static float hiss(wearer *w)
{
    w->noise = w->noise * 1664525u + 1013904223u;
    return NOISE_RAD_S * ((float)(w->noise >> 8) / 8388608.0f - 1.0f);
}

static float walking_thigh(double cycles)
{
    const float phase = (float)(cycles - (double)(uint64_t)cycles);
    if (phase < FORWARD_SHARE) {
        return FORWARD_RAD_S * hump(phase / FORWARD_SHARE);
    }
    return -BACKWARD_RAD_S * hump((phase - FORWARD_SHARE) / (1.0f - FORWARD_SHARE));
}

/* Flexion rates of the thighs [right, left] in rad/s. */
static void motion(const wearer *w, uint64_t now_us, float rate[2])
{
    const double time_s = (double)(now_us - w->since_us) * 1e-6;
    rate[0] = rate[1] = 0.0f;
    if (w->doing == WALK) {
        rate[0] = walking_thigh(time_s * (double)w->stride_hz);
        rate[1] = walking_thigh(time_s * (double)w->stride_hz + 0.5);
    } else if (w->doing == LIFT_RIGHT || w->doing == LIFT_LEFT) {
        const float half = (float)(time_s / (0.5 * LIFT_S));
        rate[w->doing == LIFT_LEFT] = LIFT_RAD_S * (hump(half) - hump(half - 1.0f));
    }
}

static void ask(wearer *w, const exo_request *request, uint64_t now_us)
{
    if (request->kind == QUIT) {
        stopped = 1;
    } else if (request->kind == WALK) {
        const float speed = request->value;
        w->stride_hz = speed > 0.0f && speed < 5.0f ? 0.5f + 0.35f * speed : w->own_stride_hz;
    }
    if (request->kind <= SIT && request->kind != (uint16_t)w->doing) {
        w->doing = (enum doing)request->kind;
        w->since_us = now_us;
    } else if (request->kind == LIFT_RIGHT || request->kind == LIFT_LEFT) {
        w->since_us = now_us;
    }
}

static void note(stopwatch *watch, uint64_t took_us)
{
    const uint64_t bin = took_us / BIN_US;
    watch->bins[bin < BINS ? bin : BINS - 1u]++;
    watch->count++;
    watch->longest_us = took_us > watch->longest_us ? took_us : watch->longest_us;
}

/* The time in us that a share of the answers did not exceed; to the upper edge of its bin. */
static uint64_t percentile(const stopwatch *watch, double share)
{
    uint64_t seen = 0;
    for (uint32_t bin = 0; bin < BINS - 1u; bin++) {
        seen += watch->bins[bin];
        if (watch->count > 0 && (double)seen >= share * (double)watch->count) {
            return (uint64_t)(bin + 1u) * BIN_US;
        }
    }
    return watch->longest_us;
}

/* A second decoder picks out what is meant for the wearer; the controller ignores these frames, as a real one must. */
static void exchange(exo_controller *controller, wearer *w, stopwatch *watch, int port)
{
    static exo_decoder requests;
    uint8_t in[4096];
    uint8_t out[EXO_MAX_FRAME_BYTES];
    exo_frame frame;
    const ssize_t got = read(port, in, sizeof in);
    const uint64_t now = clock_us();
    if (got <= 0) {
        return;
    }
    for (ssize_t i = 0; i < got; i++) { /* one at a time, so that each answer is noted */
        const uint32_t accepted = controller->counters.torque_accepted;
        exo_controller_receive(controller, &in[i], 1, now);
        if (controller->counters.torque_accepted != accepted) {
            note(watch, now - controller->sent_us[controller->command_echo % EXO_SENT_MEMORY]);
        }
        if (exo_decoder_push(&requests, in[i], &frame) == EXO_FRAME && frame.type == EXO_REQUEST) {
            ask(w, &frame.as.request, now);
        }
    }
    const size_t size = exo_controller_reply(controller, out);
    if (size > 0 && write(port, out, size) < 0) {
        fprintf(stderr, "answer not sent: %s\n", strerror(errno));
    }
}

static void measure(wearer *w, const float applied[2], uint64_t now, exo_sensor *measured)
{
    float rate[2];
    motion(w, now, rate);
    memset(measured, 0, sizeof *measured);
    measured->fields = EXO_FIELD_JOINT_VELOCITY | EXO_FIELD_MEASURED_TORQUE;
    for (int side = 0; side < 2; side++) {
        w->torque_nm[side] += 0.4f * (applied[side] - w->torque_nm[side]);
        measured->gyro_rad_s[side] = rate[side] + bias_rad_s[side] + hiss(w);
        measured->joint_velocity_rad_s[side] = rate[side];
        measured->measured_torque_nm[side] = w->torque_nm[side];
    }
}

/* Sensor frames that find no room are lost whole or in part, as on a real line; returns 1 then. */
static int send_sample(exo_controller *controller, wearer *w, int port)
{
    exo_sensor measured;
    uint8_t out[EXO_MAX_FRAME_BYTES];
    measure(w, controller->applied_nm, clock_us(), &measured);
    const size_t size = exo_controller_sample(controller, &measured, clock_us(), out);
    return size > 0 && write(port, out, size) != (ssize_t)size;
}

/* Echo mode: what comes back is timed by its sequence number. */
static void take_echo(stopwatch *watch, int port)
{
    static exo_decoder echoes;
    uint8_t in[4096];
    exo_frame frame;
    const ssize_t got = read(port, in, sizeof in);
    const uint64_t now = clock_us();
    for (ssize_t i = 0; i < got; i++) {
        if (exo_decoder_push(&echoes, in[i], &frame) == EXO_FRAME && frame.type == EXO_SENSOR) {
            note(watch, now - watch->sent_us[frame.sequence % EXO_SENT_MEMORY]);
        }
    }
}

static int send_echo(stopwatch *watch, wearer *w, int port)
{
    static const float nothing[2] = {0.0f, 0.0f};
    uint8_t out[EXO_MAX_FRAME_BYTES];
    exo_frame frame;
    memset(&frame, 0, sizeof frame);
    frame.version = EXO_PROTOCOL_VERSION;
    frame.type = EXO_SENSOR;
    frame.sequence = ++watch->next;
    measure(w, nothing, clock_us(), &frame.as.sensor);
    frame.as.sensor.device_time_us = clock_us();
    const size_t size = exo_encode(&frame, out);
    watch->sent_us[watch->next % EXO_SENT_MEMORY] = clock_us();
    return write(port, out, size) != (ssize_t)size;
}

static void report_changes(const exo_controller *controller, uint64_t now, const float torque[2])
{
    static int state = -1, reason = -1;
    static float last[2] = {0.0f, 0.0f};
    if (torque[0] != last[0] || torque[1] != last[1]) {
        printf("%" PRIu64 " torque %.6f %.6f\n", now, (double)torque[0], (double)torque[1]);
        last[0] = torque[0];
        last[1] = torque[1];
    }
    if (controller->state != state || controller->latch_reason != reason) {
        state = controller->state;
        reason = controller->latch_reason;
        printf("%" PRIu64 " state %d reason %d\n", now, state, reason);
    }
}

static void run(exo_controller *controller, wearer *w, stopwatch *watch, int port, uint64_t period_us, bool echo)
{
    uint32_t lost = 0;
    uint64_t last_tick = clock_us();
    uint64_t next_sample = last_tick;
    uint64_t longest = 0;
    while (!stopped) {
        struct pollfd wait = {port, POLLIN, 0};
        float torque[2];
        if (poll(&wait, 1, (int)(TICK_US / 1000u)) > 0 && (wait.revents & POLLIN)) {
            if (echo) {
                take_echo(watch, port);
            } else {
                exchange(controller, w, watch, port);
            }
        }
        const exo_health health = {emergency != 0, false, false};
        const uint64_t now = clock_us();
        exo_controller_tick(controller, health, now, torque);
        longest = now - last_tick > longest ? now - last_tick : longest;
        last_tick = now;
        report_changes(controller, now, torque);
        if (now >= next_sample) {
            lost += (uint32_t)(echo ? send_echo(watch, w, port) : send_sample(controller, w, port));
            next_sample += period_us;
            if (next_sample + 2 * period_us < now) {
                next_sample = now + period_us; /* this process itself was stopped: no burst of old samples */
            }
        }
    }
    const exo_counters *n = &controller->counters;
    printf("%" PRIu64 " end samples %" PRIu32 " lost %" PRIu32 " frames %" PRIu32 " bad_crc %" PRIu32
           " bad_cobs %" PRIu32 " accepted %" PRIu32 " session %" PRIu32 " value %" PRIu32 " echo %" PRIu32
           " stale %" PRIu32 " arm %" PRIu32 " ignored %" PRIu32 " longest_us %" PRIu64,
           clock_us(), echo ? watch->next : controller->sent_sequence, lost, controller->decoder.frames,
           controller->decoder.bad_crc, controller->decoder.bad_cobs, n->torque_accepted, n->rejected_session,
           n->rejected_value, n->rejected_echo, n->rejected_stale, n->rejected_arm, n->ignored, longest);
    printf(" answered %" PRIu32 " p50_us %" PRIu64 " p99_us %" PRIu64 " p999_us %" PRIu64 " max_us %" PRIu64
           " newest %" PRIu32 "\n",
           watch->count, percentile(watch, 0.5), percentile(watch, 0.99), percentile(watch, 0.999), watch->longest_us,
           controller->command_echo);
}

int main(int argc, char **argv)
{
    static exo_controller controller;
    static stopwatch watch;
    static wearer w = {STAND, 0, 0.9f, 0.9f, {0.0f, 0.0f}, 1u};
    exo_config config;
    struct sigaction action;
    int slave = -1;
    if (argc < 7 || argc > 8) {
        fprintf(stderr, "usage: host_device HZ PROFILE HASH NM NM_S TTL_MS [STRIDE_HZ]\n");
        return 2;
    }
    memset(&config, 0, sizeof config);
    config.rate_hz = strtof(argv[1], NULL);
    if (!(config.rate_hz >= 1.0f && config.rate_hz <= 1000.0f)) {
        fprintf(stderr, "rate %s is outside 1 to 1000 Hz\n", argv[1]);
        return 2;
    }
    memcpy(config.profile_name, argv[2], strlen(argv[2]) < EXO_NAME_BYTES ? strlen(argv[2]) : EXO_NAME_BYTES);
    config.profile_hash = strtoull(argv[3], NULL, 16);
    config.torque_limit_nm = strtof(argv[4], NULL);
    config.torque_rate_limit_nm_s = strtof(argv[5], NULL);
    config.ttl_ms = (uint16_t)atoi(argv[6]);
    config.sensor_flags = EXO_SENSOR_SIMULATED;
    memcpy(config.firmware, "c99 reference", 13);
    exo_controller_init(&controller, &config);

    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGUSR2, &action, NULL);

    const int port = open_port(&slave);
    if (port < 0) {
        fprintf(stderr, "no pseudo-terminal: %s\n", strerror(errno));
        return 1;
    }
    if (argc == 8) {
        w.own_stride_hz = strtof(argv[7], NULL);
        if (!(w.own_stride_hz >= 0.0f && w.own_stride_hz <= 3.0f)) {
            fprintf(stderr, "stride frequency %s is outside 0 to 3 Hz\n", argv[7]);
            return 2;
        }
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("port %s\n", ptsname(port));
    run(&controller, &w, &watch, port, (uint64_t)(1e6f / config.rate_hz), strcmp(argv[3], "echo") == 0);
    close(slave);
    close(port);
    return 0;
}
