/* The controller reference as a process behind a pseudo-terminal: what a microcontroller would be behind a USB port.
 *
 *   host_device HZ PROFILE HASH NM NM_S TTL_MS [STRIDE_HZ]
 *
 * prints "port PATH" for a host to open, then one line per change:
 *   T_US state STATE reason REASON        when the state machine moves
 *   T_US torque RIGHT LEFT                when the commanded torque changes
 * It lives until SIGTERM; then it prints its counters and its own longest wait between two ticks. SIGUSR1 presses the emergency stop, SIGUSR2 lets it go.
 * Gyroscopes: two thighs swinging in anti-phase at STRIDE_HZ (default 0: they hang still). T_US is CLOCK_MONOTONIC.
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
#define SWING_RAD_S 2.5f

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

/* A parabola per half period: near enough to a swinging thigh, without <math.h>. */
static float swing(uint64_t now_us, float stride_hz)
{
    const double cycles = (double)now_us * 1e-6 * (double)stride_hz;
    const float phase = (float)(cycles - (double)(uint64_t)cycles);
    const float half = phase < 0.5f ? 2.0f * phase : 2.0f * phase - 1.0f;
    const float hump = 4.0f * half * (1.0f - half);
    return SWING_RAD_S * (phase < 0.5f ? hump : -hump);
}

static void exchange(exo_controller *controller, int port)
{
    uint8_t in[4096];
    uint8_t out[EXO_MAX_FRAME_BYTES];
    const ssize_t got = read(port, in, sizeof in);
    if (got > 0) {
        exo_controller_receive(controller, in, (size_t)got, clock_us());
        const size_t size = exo_controller_reply(controller, out);
        if (size > 0 && write(port, out, size) < 0) {
            fprintf(stderr, "answer not sent: %s\n", strerror(errno));
        }
    }
}

/* Sensor frames that find no room are lost whole or in part, as on a real line; returns 1 then. */
static int send_sample(exo_controller *controller, int port, float stride_hz)
{
    exo_sensor measured;
    uint8_t out[EXO_MAX_FRAME_BYTES];
    const uint64_t now = clock_us();
    memset(&measured, 0, sizeof measured);
    measured.gyro_rad_s[0] = swing(now, stride_hz);
    measured.gyro_rad_s[1] = -measured.gyro_rad_s[0];
    const size_t size = exo_controller_sample(controller, &measured, now, out);
    return size > 0 && write(port, out, size) != (ssize_t)size;
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

static void run(exo_controller *controller, int port, uint64_t period_us, float stride_hz)
{
    uint32_t lost = 0;
    uint64_t last_tick = clock_us();
    uint64_t next_sample = last_tick;
    uint64_t longest = 0;
    while (!stopped) {
        struct pollfd wait = {port, POLLIN, 0};
        float torque[2];
        if (poll(&wait, 1, (int)(TICK_US / 1000u)) > 0 && (wait.revents & POLLIN)) {
            exchange(controller, port);
        }
        const exo_health health = {emergency != 0, false, false};
        const uint64_t now = clock_us();
        exo_controller_tick(controller, health, now, torque);
        longest = now - last_tick > longest ? now - last_tick : longest;
        last_tick = now;
        report_changes(controller, now, torque);
        if (now >= next_sample) {
            lost += (uint32_t)send_sample(controller, port, stride_hz);
            next_sample += period_us;
            if (next_sample + 2 * period_us < now) {
                next_sample = now + period_us; /* this process itself was stopped: no burst of old samples */
            }
        }
    }
    const exo_counters *n = &controller->counters;
    printf("%" PRIu64 " end samples %" PRIu32 " lost %" PRIu32 " frames %" PRIu32 " bad_crc %" PRIu32
           " bad_cobs %" PRIu32 " accepted %" PRIu32 " session %" PRIu32 " value %" PRIu32 " echo %" PRIu32
           " stale %" PRIu32 " arm %" PRIu32 " ignored %" PRIu32 " longest_us %" PRIu64 "\n",
           clock_us(), controller->sent_sequence, lost, controller->decoder.frames, controller->decoder.bad_crc,
           controller->decoder.bad_cobs, n->torque_accepted, n->rejected_session, n->rejected_value,
           n->rejected_echo, n->rejected_stale, n->rejected_arm, n->ignored, longest);
}

int main(int argc, char **argv)
{
    static exo_controller controller;
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
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("port %s\n", ptsname(port));
    run(&controller, port, (uint64_t)(1e6f / config.rate_hz), argc == 8 ? strtof(argv[7], NULL) : 0.0f);
    close(slave);
    close(port);
    return 0;
}
