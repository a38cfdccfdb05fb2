/* Two filters for tests, so that the Python side can look at every decision of the C side:
 *
 *   host_check decode            bytes on stdin -> every accepted frame, encoded again, on stdout;
 *                                the decoder's counters on stderr
 *   host_check play HZ HASH NM NM_S TTL
 *                                a script on stdin drives one controller; each line gives a line on stdout:
 *                                   rx NOW_US HEX       bytes from the host; prints the reply in hex, or -
 *                                   tick NOW_US E D T   health flags 0/1; prints right left state reason
 *                                   sample NOW_US R L   gyroscopes; prints the sensor frame in hex, or -
 *                                then a last line with the controller's counters.
 */
#include "exo_controller.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int decode(void)
{
    exo_decoder decoder;
    exo_frame frame;
    uint8_t out[EXO_MAX_FRAME_BYTES];
    int byte;
    exo_decoder_init(&decoder);
    while ((byte = getchar()) != EOF) {
        if (exo_decoder_push(&decoder, (uint8_t)byte, &frame) == EXO_FRAME) {
            fwrite(out, 1, exo_encode(&frame, out), stdout);
        }
    }
    fprintf(stderr,
            "frames %" PRIu32 "\nbad_cobs %" PRIu32 "\ntoo_short %" PRIu32 "\nbad_crc %" PRIu32
            "\nunknown_version %" PRIu32 "\nunknown_type %" PRIu32 "\nbad_payload %" PRIu32 "\noversize %" PRIu32 "\n",
            decoder.frames, decoder.bad_cobs, decoder.too_short, decoder.bad_crc, decoder.unknown_version,
            decoder.unknown_type, decoder.bad_payload, decoder.oversize);
    return 0;
}

static void print_hex(const uint8_t *bytes, size_t size)
{
    if (size == 0) {
        putchar('-');
    }
    for (size_t i = 0; i < size; i++) {
        printf("%02x", bytes[i]);
    }
    putchar('\n');
}

static size_t parse_hex(const char *text, uint8_t *out, size_t capacity)
{
    size_t size = 0;
    unsigned byte;
    while (size < capacity && sscanf(text + 2 * size, "%2x", &byte) == 1) {
        out[size++] = (uint8_t)byte;
    }
    return size;
}

static int play(char **argv)
{
    static char line[20000];
    static uint8_t bytes[9000];
    uint8_t out[EXO_MAX_FRAME_BYTES];
    exo_controller controller;
    exo_config config;
    memset(&config, 0, sizeof config);
    config.rate_hz = strtof(argv[0], NULL);
    config.profile_hash = strtoull(argv[1], NULL, 16);
    config.torque_limit_nm = strtof(argv[2], NULL);
    config.torque_rate_limit_nm_s = strtof(argv[3], NULL);
    config.ttl_ms = (uint16_t)atoi(argv[4]);
    config.sensor_flags = EXO_SENSOR_SIMULATED;
    memcpy(config.profile_name, "play", 4);
    memcpy(config.firmware, "host", 4);
    exo_controller_init(&controller, &config);
    setvbuf(stdout, NULL, _IOLBF, 0);
    while (fgets(line, sizeof line, stdin)) {
        uint64_t now = 0;
        int used = 0;
        if (sscanf(line, "rx %" SCNu64 " %n", &now, &used) == 1) {
            const size_t size = parse_hex(line + used, bytes, sizeof bytes);
            exo_controller_receive(&controller, bytes, size, now);
            print_hex(out, exo_controller_reply(&controller, out));
        } else if (strncmp(line, "tick", 4) == 0) {
            int stop = 0, driver = 0, hot = 0;
            float torque[2];
            if (sscanf(line, "tick %" SCNu64 " %d %d %d", &now, &stop, &driver, &hot) != 4) {
                return 2;
            }
            const exo_health health = {stop != 0, driver != 0, hot != 0};
            exo_controller_tick(&controller, health, now, torque);
            printf("%.9g %.9g %d %d\n", (double)torque[0], (double)torque[1], controller.state,
                   controller.latch_reason);
        } else if (strncmp(line, "sample", 6) == 0) {
            exo_sensor measured;
            memset(&measured, 0, sizeof measured);
            if (sscanf(line, "sample %" SCNu64 " %f %f", &now, &measured.gyro_rad_s[0], &measured.gyro_rad_s[1]) != 3) {
                return 2;
            }
            print_hex(out, exo_controller_sample(&controller, &measured, now, out));
        } else {
            return 2;
        }
    }
    const exo_counters *n = &controller.counters;
    printf("%" PRIu32 " %" PRIu32 " %" PRIu32 " %" PRIu32 " %" PRIu32 " %" PRIu32 " %" PRIu32 "\n", n->torque_accepted,
           n->rejected_session, n->rejected_value, n->rejected_echo, n->rejected_stale, n->rejected_arm, n->ignored);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "decode") == 0) {
        return decode();
    }
    if (argc == 7 && strcmp(argv[1], "play") == 0) {
        return play(argv + 2);
    }
    fprintf(stderr, "usage: host_check decode | play HZ HASH NM NM_S TTL\n");
    return 2;
}
