/* Coverage-guided fuzzing of the C controller: the input is a history of frames, time, samples and health lines.
 *
 * Whatever the history, the torque is finite, within its limits and slow to grow; it is zero unless armed or being
 * released; a latch goes away only by an arm frame that says so; arming starts at zero.
 */
#include "exo_controller.h"

#include <stdlib.h>
#include <string.h>

#define LIMIT_NM 18.0f
#define RATE_NM_S 150.0f
#define HASH 42u

static void require(int condition)
{
    if (!condition) {
        abort();
    }
}

typedef struct {
    const uint8_t *at, *end;
} input;

static uint8_t take(input *in)
{
    return in->at < in->end ? *in->at++ : 0;
}

static float take_float(input *in)
{
    uint8_t raw[4];
    float value;
    for (int i = 0; i < 4; i++) {
        raw[i] = take(in);
    }
    memcpy(&value, raw, sizeof value);
    return value;
}

static float absolute(float x)
{
    return x < 0.0f ? -x : x;
}

static void send(exo_controller *c, exo_frame *frame, uint64_t now)
{
    uint8_t bytes[EXO_MAX_FRAME_BYTES], answer[EXO_MAX_FRAME_BYTES];
    frame->version = EXO_PROTOCOL_VERSION;
    exo_controller_receive(c, bytes, exo_encode(frame, bytes), now);
    (void)exo_controller_reply(c, answer);
}

static void send_some(exo_controller *c, input *in, uint64_t now)
{
    exo_frame frame;
    const uint8_t choice = take(in);
    const uint8_t before = c->state;
    const uint32_t echo = c->sent_sequence - (take(in) & 0x07u);
    memset(&frame, 0, sizeof frame);
    frame.flags = take(in);
    switch (choice % 6) {
    case 0:
        frame.type = EXO_HELLO;
        frame.as.hello.session = 1u + (choice >> 6);
        frame.as.hello.profile_hash = HASH + (choice & 0x20u);
        frame.as.hello.rate_hz = 100.0f;
        frame.as.hello.wearer_mass_kg = 70.0f;
        frame.as.hello.torque_limit_nm = (choice & 0x10u) ? take_float(in) : LIMIT_NM;
        frame.as.hello.torque_rate_limit_nm_s = (choice & 0x08u) ? take_float(in) : RATE_NM_S;
        frame.as.hello.ttl_ms = take(in);
        break;
    case 1:
        frame.type = EXO_TORQUE;
        frame.as.torque.session = c->session;
        frame.as.torque.echo = echo;
        frame.as.torque.ttl_ms = take(in);
        frame.as.torque.torque_nm[0] = take_float(in);
        frame.as.torque.torque_nm[1] = take_float(in);
        break;
    case 2:
        frame.type = EXO_ARM;
        frame.as.arm.session = c->session;
        frame.as.arm.echo = echo;
        break;
    case 3:
        frame.type = EXO_DISARM;
        frame.as.disarm.session = c->session;
        break;
    case 4:
        frame.type = EXO_STOP;
        break;
    default:
        frame.type = EXO_REQUEST;
        break;
    }
    send(c, &frame, now);
    if (before != EXO_ARMED && c->state == EXO_ARMED) {
        require(frame.type == EXO_ARM && (before == EXO_DISARMED || (frame.flags & EXO_ARM_CLEAR_LATCH)));
        require(c->applied_nm[0] == 0.0f && c->applied_nm[1] == 0.0f);
    }
    require(before != EXO_LATCHED || c->state == EXO_LATCHED || frame.type == EXO_ARM);
}

static void pass_time(exo_controller *c, input *in, uint64_t *now)
{
    const uint8_t what = take(in);
    const exo_health health = {what == 255, what == 254, what == 253};
    const float before[2] = {c->applied_nm[0], c->applied_nm[1]};
    const uint64_t step = (uint64_t)take(in) * 100u;
    float torque[2];
    *now += step;
    const float grown = RATE_NM_S * (float)(step < EXO_MAX_STEP_US ? EXO_MAX_STEP_US : step) * 1e-6f;
    exo_controller_tick(c, health, *now, torque);
    for (int side = 0; side < 2; side++) {
        require(absolute(torque[side]) <= LIMIT_NM); /* false for NaN */
        require(absolute(torque[side]) <= absolute(before[side]) + grown + 1e-4f);
        require(c->state == EXO_ARMED || c->releasing || torque[side] == 0.0f);
    }
    if (c->state == EXO_ARMED) {
        require(*now - c->command_born_us < 1000u * EXO_MAX_TTL_MS);
        require(!health.emergency_stop && !health.driver_fault && !health.over_temperature);
    }
    if (health.emergency_stop || health.driver_fault) {
        require(torque[0] == 0.0f && torque[1] == 0.0f && c->state == EXO_LATCHED);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    exo_controller c;
    exo_config config;
    exo_sensor measured;
    uint8_t out[EXO_MAX_FRAME_BYTES];
    input in = {data, data + size};
    uint64_t now = 1000;
    memset(&config, 0, sizeof config);
    memset(&measured, 0, sizeof measured);
    config.rate_hz = 100.0f;
    config.profile_hash = HASH;
    config.torque_limit_nm = LIMIT_NM;
    config.torque_rate_limit_nm_s = RATE_NM_S;
    config.ttl_ms = 50;
    exo_controller_init(&c, &config);
    while (in.at < in.end) {
        switch (take(&in) & 0x03u) {
        case 0:
            send_some(&c, &in, now);
            break;
        case 1:
            pass_time(&c, &in, &now);
            break;
        case 2:
            (void)exo_controller_sample(&c, &measured, now, out);
            break;
        default: {
            const uint8_t noise[3] = {take(&in), take(&in), take(&in)};
            exo_controller_receive(&c, noise, sizeof noise, now);
            break;
        }
        }
    }
    return 0;
}

#ifdef EXO_FUZZ_STDIN
#include <stdio.h>
int main(void)
{
    static uint8_t input_bytes[1 << 16];
    return LLVMFuzzerTestOneInput(input_bytes, fread(input_bytes, 1, sizeof input_bytes, stdin));
}
#endif
