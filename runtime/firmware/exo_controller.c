#include "exo_controller.h"

#include <float.h>
#include <string.h>

/* <math.h> is left out on purpose: comparisons do, and they are false for NaN. */
static bool is_finite(float x)
{
    return x >= -FLT_MAX && x <= FLT_MAX;
}

static float clamp(float x, float limit)
{
    return x > limit ? limit : (x < -limit ? -limit : x);
}

static float smaller(float a, float b)
{
    return a < b ? a : b;
}

/* Whether sequence number `a` comes after `b`, across the wrap at 2^32. */
static bool newer(uint32_t a, uint32_t b)
{
    const uint32_t step = a - b;
    return step != 0 && step < 0x80000000u;
}

static void drop_command(exo_controller *c)
{
    c->command_nm[0] = 0.0f;
    c->command_nm[1] = 0.0f;
}

static void release(exo_controller *c, bool at_once)
{
    drop_command(c);
    if (at_once) {
        c->applied_nm[0] = 0.0f;
        c->applied_nm[1] = 0.0f;
        c->releasing = false;
    } else if (!c->releasing) {
        c->releasing = true;
        c->release_us = c->now_us;
    }
}

/* The first reason stays; whoever re-arms must have seen a sample that shows it. */
static void latch(exo_controller *c, uint8_t reason, bool at_once)
{
    release(c, at_once);
    c->arm_floor = c->sent_sequence;
    if (c->state != EXO_LATCHED) {
        c->state = EXO_LATCHED;
        c->latch_reason = reason;
    }
}

/* Takes the new time; a clock that runs backwards is a fault of this device. */
static void advance(exo_controller *c, uint64_t now_us)
{
    if (c->started && now_us < c->now_us) {
        latch(c, EXO_LATCH_CLOCK, true);
    }
    c->now_us = now_us;
    if (!c->started || now_us < c->tick_us) {
        c->tick_us = now_us;
        c->started = true;
    }
}

/* Whether `echo` names a sample that was sent and is remembered; gives its age. */
static bool sample_age(const exo_controller *c, uint32_t echo, uint64_t *age_us)
{
    const uint32_t back = c->sent_sequence - echo;
    if (c->sent_sequence == 0 || echo == 0 || back >= EXO_SENT_MEMORY || back >= c->sent_sequence) {
        return false;
    }
    const uint64_t sent = c->sent_us[echo % EXO_SENT_MEMORY];
    *age_us = c->now_us >= sent ? c->now_us - sent : UINT64_MAX;
    return true;
}

static bool healthy(const exo_health *health)
{
    return !health->emergency_stop && !health->driver_fault && !health->over_temperature;
}

void exo_controller_init(exo_controller *c, const exo_config *config)
{
    memset(c, 0, sizeof *c);
    exo_decoder_init(&c->decoder);
    c->config = *config;
    if (c->config.ttl_ms == 0 || c->config.ttl_ms > EXO_MAX_TTL_MS) {
        c->config.ttl_ms = EXO_MAX_TTL_MS;
    }
    c->state = EXO_WAITING;
    c->ttl_ms = c->config.ttl_ms;
}

static uint8_t judge(const exo_controller *c, const exo_hello *hello)
{
    const float rate_error = hello->rate_hz - c->config.rate_hz;
    if (!(rate_error > -0.01f && rate_error < 0.01f)) {
        return EXO_WRONG_RATE;
    }
    if (hello->profile_hash != c->config.profile_hash) {
        return EXO_WRONG_PROFILE;
    }
    if (!(hello->wearer_mass_kg >= EXO_MIN_MASS_KG && hello->wearer_mass_kg <= EXO_MAX_MASS_KG)) {
        return EXO_WRONG_MASS;
    }
    if (!(is_finite(hello->torque_limit_nm) && hello->torque_limit_nm > 0.0f) ||
        !(is_finite(hello->torque_rate_limit_nm_s) && hello->torque_rate_limit_nm_s > 0.0f)) {
        return EXO_WRONG_LIMITS;
    }
    return EXO_ACCEPTED;
}

/* Any hello while armed ends that arming: two hosts must never share a person. */
static void on_hello(exo_controller *c, const exo_hello *hello)
{
    if (c->state == EXO_ARMED) {
        latch(c, EXO_LATCH_NEW_SESSION, false);
    }
    c->greeting = *hello;
    c->ack_result = judge(c, hello);
    c->ack_pending = true;
    if (c->ack_result != EXO_ACCEPTED) {
        return;
    }
    c->greeted = true;
    c->session = hello->session;
    c->torque_limit_nm = smaller(c->config.torque_limit_nm, hello->torque_limit_nm);
    c->torque_rate_limit_nm_s = smaller(c->config.torque_rate_limit_nm_s, hello->torque_rate_limit_nm_s);
    c->ttl_ms = hello->ttl_ms < c->config.ttl_ms ? hello->ttl_ms : c->config.ttl_ms;
    if (c->ttl_ms == 0) {
        c->ttl_ms = 1;
    }
    c->has_command = false;
    if (c->state == EXO_WAITING) {
        c->state = EXO_DISARMED;
    }
}

static void on_torque(exo_controller *c, uint16_t flags, const exo_torque *m)
{
    uint64_t age_us = 0;
    if (!c->greeted || m->session != c->session) {
        c->counters.rejected_session++;
        return;
    }
    if (!is_finite(m->torque_nm[0]) || !is_finite(m->torque_nm[1]) || m->ttl_ms == 0) {
        c->counters.rejected_value++;
        if (c->state == EXO_ARMED) {
            latch(c, EXO_LATCH_BAD_COMMAND, true);
        }
        return;
    }
    if (!sample_age(c, m->echo, &age_us) || (c->has_command && !newer(m->echo, c->command_echo))) {
        c->counters.rejected_echo++;
        return;
    }
    const uint16_t ttl_ms = m->ttl_ms < c->ttl_ms ? m->ttl_ms : c->ttl_ms;
    if (age_us >= (uint64_t)ttl_ms * 1000u) {
        c->counters.rejected_stale++;
        return;
    }
    c->counters.torque_accepted++;
    c->has_command = true;
    c->command_echo = m->echo;
    c->command_after_us = age_us < UINT16_MAX ? (uint16_t)age_us : UINT16_MAX;
    if (c->state != EXO_ARMED) {
        return;
    }
    c->command_born_us = c->now_us - age_us;
    c->command_ttl_us = (uint32_t)ttl_ms * 1000u;
    drop_command(c);
    if ((flags & EXO_TORQUE_ARMED) && !(flags & EXO_TORQUE_DRY_RUN)) {
        for (int side = 0; side < 2; side++) {
            c->command_nm[side] = clamp(m->torque_nm[side], c->torque_limit_nm);
            if (c->command_nm[side] != m->torque_nm[side]) {
                c->limited = true;
            }
        }
    }
}

static void on_arm(exo_controller *c, uint16_t flags, const exo_arm *m)
{
    uint64_t age_us = 0;
    const bool cleared = c->state == EXO_DISARMED || (c->state == EXO_LATCHED && (flags & EXO_ARM_CLEAR_LATCH));
    if (!cleared || m->session != c->session || !healthy(&c->health) || !sample_age(c, m->echo, &age_us) ||
        age_us >= (uint64_t)c->ttl_ms * 1000u || !newer(m->echo, c->arm_floor)) {
        c->counters.rejected_arm++;
        return;
    }
    c->state = EXO_ARMED;
    c->latch_reason = EXO_LATCH_NONE;
    c->arm_floor = c->sent_sequence;
    release(c, true);
    c->command_born_us = c->now_us - age_us;
    c->command_ttl_us = (uint32_t)c->ttl_ms * 1000u;
}

static void on_frame(exo_controller *c, const exo_frame *frame)
{
    switch (frame->type) {
    case EXO_HELLO:
        on_hello(c, &frame->as.hello);
        break;
    case EXO_TORQUE:
        on_torque(c, frame->flags, &frame->as.torque);
        break;
    case EXO_ARM:
        on_arm(c, frame->flags, &frame->as.arm);
        break;
    case EXO_DISARM:
        if (!c->greeted || frame->as.disarm.session != c->session) {
            c->counters.rejected_session++;
        } else if (c->state == EXO_ARMED) {
            c->state = EXO_DISARMED;
            c->arm_floor = c->sent_sequence;
            release(c, false);
        }
        break;
    case EXO_STOP:
        c->stop_reason = frame->as.stop.reason;
        c->arm_floor = c->sent_sequence;
        if (c->state == EXO_ARMED) {
            latch(c, EXO_LATCH_HOST_STOP, (frame->flags & EXO_STOP_IMMEDIATE) != 0);
        } else if (frame->flags & EXO_STOP_IMMEDIATE) {
            release(c, true);
        }
        break;
    default:
        c->counters.ignored++;
        break;
    }
}

void exo_controller_receive(exo_controller *c, const uint8_t *bytes, size_t size, uint64_t now_us)
{
    exo_frame frame;
    advance(c, now_us);
    for (size_t i = 0; i < size; i++) {
        const exo_event event = exo_decoder_push(&c->decoder, bytes[i], &frame);
        if (event == EXO_FRAME) {
            on_frame(c, &frame);
        } else if (event == EXO_OTHER_VERSION && frame.type == EXO_HELLO) {
            memset(&c->greeting, 0, sizeof c->greeting);
            c->ack_result = EXO_WRONG_PROTOCOL;
            c->ack_pending = true;
        }
    }
}

size_t exo_controller_reply(exo_controller *c, uint8_t out[EXO_MAX_FRAME_BYTES])
{
    exo_frame frame;
    const bool accepted = c->ack_result == EXO_ACCEPTED;
    exo_hello *device = &frame.as.hello_ack.device;
    if (!c->ack_pending) {
        return 0;
    }
    c->ack_pending = false;
    memset(&frame, 0, sizeof frame);
    frame.version = EXO_PROTOCOL_VERSION;
    frame.type = EXO_HELLO_ACK;
    frame.sequence = ++c->ack_sequence;
    device->session = c->greeting.session;
    device->profile_hash = c->config.profile_hash;
    device->rate_hz = c->config.rate_hz;
    device->wearer_mass_kg = c->greeting.wearer_mass_kg;
    device->torque_limit_nm = accepted ? c->torque_limit_nm : c->config.torque_limit_nm;
    device->torque_rate_limit_nm_s = accepted ? c->torque_rate_limit_nm_s : c->config.torque_rate_limit_nm_s;
    device->ttl_ms = accepted ? c->ttl_ms : c->config.ttl_ms;
    memcpy(device->profile_name, c->config.profile_name, EXO_NAME_BYTES);
    frame.as.hello_ack.result = c->ack_result;
    frame.as.hello_ack.state = c->state;
    frame.as.hello_ack.latch_reason = c->latch_reason;
    memcpy(frame.as.hello_ack.firmware, c->config.firmware, EXO_FIRMWARE_BYTES);
    return exo_encode(&frame, out);
}

static void check_health(exo_controller *c, exo_health health)
{
    c->health = health;
    if (health.emergency_stop) {
        latch(c, EXO_LATCH_EMERGENCY_STOP, true);
    } else if (health.driver_fault) {
        latch(c, EXO_LATCH_DRIVER_FAULT, true);
    } else if (health.over_temperature) {
        latch(c, EXO_LATCH_OVER_TEMPERATURE, false);
    }
}

/* The largest magnitude allowed now by the age of the command or by the release ramp. */
static float envelope(const exo_controller *c, uint64_t elapsed_us, uint64_t hold_us, uint64_t end_us)
{
    if (elapsed_us >= end_us) {
        return 0.0f;
    }
    if (elapsed_us <= hold_us) {
        return c->torque_limit_nm;
    }
    return c->torque_limit_nm * ((float)(end_us - elapsed_us) / (float)(end_us - hold_us));
}

void exo_controller_tick(exo_controller *c, exo_health health, uint64_t now_us, float torque_nm[2])
{
    float ceiling = 0.0f;
    advance(c, now_us);
    check_health(c, health);
    if (c->state == EXO_ARMED) {
        const uint64_t age_us = now_us - c->command_born_us;
        if (age_us >= c->command_ttl_us) {
            latch(c, EXO_LATCH_WATCHDOG, true);
        } else {
            ceiling = envelope(c, age_us, c->command_ttl_us / 2u, c->command_ttl_us);
        }
    } else if (c->releasing) {
        ceiling = envelope(c, now_us - c->release_us, 0, EXO_RELEASE_US);
        c->releasing = ceiling > 0.0f;
    }
    uint64_t passed_us = now_us - c->tick_us;
    if (passed_us > EXO_MAX_STEP_US) {
        passed_us = EXO_MAX_STEP_US;
    }
    c->tick_us = now_us;
    const float step = c->torque_rate_limit_nm_s * ((float)passed_us * 1e-6f);
    for (int side = 0; side < 2; side++) {
        const float moved = clamp(c->command_nm[side] - c->applied_nm[side], step);
        c->applied_nm[side] = clamp(c->applied_nm[side] + moved, ceiling);
        torque_nm[side] = c->applied_nm[side];
    }
}

size_t exo_controller_sample(exo_controller *c, const exo_sensor *measured, uint64_t now_us,
                             uint8_t out[EXO_MAX_FRAME_BYTES])
{
    exo_frame frame;
    advance(c, now_us);
    if (!c->greeted) {
        return 0;
    }
    c->sent_sequence++;
    c->sent_us[c->sent_sequence % EXO_SENT_MEMORY] = now_us;
    memset(&frame, 0, sizeof frame);
    frame.version = EXO_PROTOCOL_VERSION;
    frame.type = EXO_SENSOR;
    frame.sequence = c->sent_sequence;
    frame.flags = (uint16_t)(c->config.sensor_flags | (c->state == EXO_ARMED ? EXO_SENSOR_ARMED : 0) |
                             (c->state == EXO_LATCHED ? EXO_SENSOR_LATCHED : 0) |
                             (c->health.driver_fault ? EXO_SENSOR_DRIVER_FAULT : 0) |
                             (c->health.emergency_stop ? EXO_SENSOR_EMERGENCY_STOP : 0) |
                             (c->limited ? EXO_SENSOR_LIMITED : 0) |
                             (c->health.over_temperature ? EXO_SENSOR_OVER_TEMPERATURE : 0));
    c->limited = false;
    frame.as.sensor = *measured;
    frame.as.sensor.device_time_us = now_us;
    frame.as.sensor.state = c->state;
    frame.as.sensor.latch_reason = c->latch_reason;
    frame.as.sensor.applied_echo = c->has_command ? c->command_echo : 0;
    frame.as.sensor.applied_after_us = c->has_command ? c->command_after_us : 0;
    memcpy(frame.as.sensor.applied_torque_nm, c->applied_nm, sizeof c->applied_nm);
    return exo_encode(&frame, out);
}
