#include "exo_protocol.h"

#include <string.h>

/* Fails to compile where float is not 32 bits wide. */
typedef char exo_float_is_four_bytes[sizeof(float) == 4 ? 1 : -1];

uint32_t exo_crc32(const uint8_t *data, size_t size)
{
    /* Nibble-wise: 64 bytes of table instead of 1 KiB, fast enough for 100 frames a second on any controller. */
    static const uint32_t table[16] = {
        0x00000000u, 0x1DB71064u, 0x3B6E20C8u, 0x26D930ACu, 0x76DC4190u, 0x6B6B51F4u, 0x4DB26158u, 0x5005713Cu,
        0xEDB88320u, 0xF00F9344u, 0xD6D6A3E8u, 0xCB61B38Cu, 0x9B64C2B0u, 0x86D3D2D4u, 0xA00AE278u, 0xBDBDF21Cu,
    };
    uint32_t crc = 0xFFFFFFFFu;
    for (size_t i = 0; i < size; i++) {
        crc ^= data[i];
        crc = (crc >> 4) ^ table[crc & 0x0Fu];
        crc = (crc >> 4) ^ table[crc & 0x0Fu];
    }
    return crc ^ 0xFFFFFFFFu;
}

size_t exo_cobs_encode(const uint8_t *data, size_t size, uint8_t *out)
{
    size_t code_at = 0;
    uint8_t code = 1;
    for (size_t i = 0; i < size; i++) {
        if (data[i] == 0) {
            out[code_at] = code;
            code_at = i + 1;
            code = 1;
        } else {
            out[i + 1] = data[i];
            code++;
        }
    }
    out[code_at] = code;
    return size + 1;
}

int exo_cobs_decode(const uint8_t *data, size_t size, uint8_t *out)
{
    size_t in = 0;
    size_t written = 0;
    while (in < size) {
        const size_t code = data[in++];
        if (code == 0 || code - 1 > size - in) {
            return -1;
        }
        for (size_t k = 1; k < code; k++) {
            const uint8_t byte = data[in++];
            if (byte == 0) {
                return -1;
            }
            out[written++] = byte;
        }
        if (code < 0xFF && in < size) {
            out[written++] = 0;
        }
    }
    return (int)written;
}

/* Little-endian cursors. A writer is bounded by the payload sizes below, a reader by the length check before it. */

static uint8_t *put_u8(uint8_t *at, uint8_t value)
{
    at[0] = value;
    return at + 1;
}

static uint8_t *put_u16(uint8_t *at, uint16_t value)
{
    at[0] = (uint8_t)(value & 0xFFu);
    at[1] = (uint8_t)(value >> 8);
    return at + 2;
}

static uint8_t *put_u32(uint8_t *at, uint32_t value)
{
    at = put_u16(at, (uint16_t)(value & 0xFFFFu));
    return put_u16(at, (uint16_t)(value >> 16));
}

static uint8_t *put_u64(uint8_t *at, uint64_t value)
{
    at = put_u32(at, (uint32_t)(value & 0xFFFFFFFFu));
    return put_u32(at, (uint32_t)(value >> 32));
}

static uint8_t *put_floats(uint8_t *at, const float *values, int count)
{
    for (int i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        at = put_u32(at, bits);
    }
    return at;
}

static uint8_t *put_text(uint8_t *at, const char *text, size_t size)
{
    memcpy(at, text, size);
    return at + size;
}

static uint8_t get_u8(const uint8_t **at)
{
    return *(*at)++;
}

static uint16_t get_u16(const uint8_t **at)
{
    const uint16_t low = get_u8(at);
    return (uint16_t)(low | (uint16_t)(get_u8(at) << 8));
}

static uint32_t get_u32(const uint8_t **at)
{
    const uint32_t low = get_u16(at);
    return low | ((uint32_t)get_u16(at) << 16);
}

static uint64_t get_u64(const uint8_t **at)
{
    const uint64_t low = get_u32(at);
    return low | ((uint64_t)get_u32(at) << 32);
}

static void get_floats(const uint8_t **at, float *values, int count)
{
    for (int i = 0; i < count; i++) {
        const uint32_t bits = get_u32(at);
        memcpy(&values[i], &bits, sizeof bits);
    }
}

static void get_text(const uint8_t **at, char *text, size_t size)
{
    memcpy(text, *at, size);
    *at += size;
}

enum {
    HELLO_BYTES = 64,
    HELLO_ACK_BYTES = 84,
    SENSOR_FIXED_BYTES = 36,
    TORQUE_BYTES = 20,
    ARM_BYTES = 8,
    DISARM_BYTES = 4,
    STOP_BYTES = 4,
    REQUEST_BYTES = 12
};

/* Payload size of a type, given the field mask for sensor frames; 0 for an unknown type or mask. */
static size_t payload_size(uint8_t type, uint16_t fields)
{
    switch (type) {
    case EXO_HELLO: return HELLO_BYTES;
    case EXO_HELLO_ACK: return HELLO_ACK_BYTES;
    case EXO_TORQUE: return TORQUE_BYTES;
    case EXO_ARM: return ARM_BYTES;
    case EXO_DISARM: return DISARM_BYTES;
    case EXO_STOP: return STOP_BYTES;
    case EXO_REQUEST: return REQUEST_BYTES;
    case EXO_SENSOR: {
        size_t size = SENSOR_FIXED_BYTES;
        if (fields & ~(unsigned)EXO_FIELD_ALL) {
            return 0;
        }
        for (unsigned bit = EXO_FIELD_JOINT_VELOCITY; bit <= EXO_FIELD_HIP_ANGLE; bit <<= 1) {
            if (fields & bit) {
                size += (bit == EXO_FIELD_GYRO3 || bit == EXO_FIELD_ACCELEROMETER) ? 24 : 8;
            }
        }
        return size;
    }
    default: return 0;
    }
}

static uint8_t *put_hello(uint8_t *at, const exo_hello *m)
{
    at = put_u32(at, m->session);
    at = put_u64(at, m->profile_hash);
    at = put_floats(at, &m->rate_hz, 1);
    at = put_floats(at, &m->wearer_mass_kg, 1);
    at = put_floats(at, &m->torque_limit_nm, 1);
    at = put_floats(at, &m->torque_rate_limit_nm_s, 1);
    at = put_u16(at, m->ttl_ms);
    at = put_u16(at, 0);
    return put_text(at, m->profile_name, EXO_NAME_BYTES);
}

static void get_hello(const uint8_t **at, exo_hello *m)
{
    m->session = get_u32(at);
    m->profile_hash = get_u64(at);
    get_floats(at, &m->rate_hz, 1);
    get_floats(at, &m->wearer_mass_kg, 1);
    get_floats(at, &m->torque_limit_nm, 1);
    get_floats(at, &m->torque_rate_limit_nm_s, 1);
    m->ttl_ms = get_u16(at);
    (void)get_u16(at);
    get_text(at, m->profile_name, EXO_NAME_BYTES);
}

static uint8_t *put_sensor(uint8_t *at, const exo_sensor *m)
{
    at = put_u64(at, m->device_time_us);
    at = put_u16(at, m->fields);
    at = put_u8(at, m->state);
    at = put_u8(at, m->latch_reason);
    at = put_u32(at, m->applied_echo);
    at = put_u16(at, m->applied_after_us);
    at = put_u16(at, 0);
    at = put_floats(at, m->gyro_rad_s, 2);
    at = put_floats(at, m->applied_torque_nm, 2);
    if (m->fields & EXO_FIELD_JOINT_VELOCITY) at = put_floats(at, m->joint_velocity_rad_s, 2);
    if (m->fields & EXO_FIELD_MEASURED_TORQUE) at = put_floats(at, m->measured_torque_nm, 2);
    if (m->fields & EXO_FIELD_TEMPERATURE) at = put_floats(at, m->temperature_c, 2);
    if (m->fields & EXO_FIELD_GYRO3) at = put_floats(at, m->gyro3_rad_s, 6);
    if (m->fields & EXO_FIELD_ACCELEROMETER) at = put_floats(at, m->acceleration_m_s2, 6);
    if (m->fields & EXO_FIELD_HIP_ANGLE) at = put_floats(at, m->hip_angle_rad, 2);
    return at;
}

static void get_sensor(const uint8_t **at, exo_sensor *m)
{
    m->device_time_us = get_u64(at);
    m->fields = get_u16(at);
    m->state = get_u8(at);
    m->latch_reason = get_u8(at);
    m->applied_echo = get_u32(at);
    m->applied_after_us = get_u16(at);
    (void)get_u16(at);
    get_floats(at, m->gyro_rad_s, 2);
    get_floats(at, m->applied_torque_nm, 2);
    if (m->fields & EXO_FIELD_JOINT_VELOCITY) get_floats(at, m->joint_velocity_rad_s, 2);
    if (m->fields & EXO_FIELD_MEASURED_TORQUE) get_floats(at, m->measured_torque_nm, 2);
    if (m->fields & EXO_FIELD_TEMPERATURE) get_floats(at, m->temperature_c, 2);
    if (m->fields & EXO_FIELD_GYRO3) get_floats(at, m->gyro3_rad_s, 6);
    if (m->fields & EXO_FIELD_ACCELEROMETER) get_floats(at, m->acceleration_m_s2, 6);
    if (m->fields & EXO_FIELD_HIP_ANGLE) get_floats(at, m->hip_angle_rad, 2);
}

size_t exo_encode(const exo_frame *frame, uint8_t out[EXO_MAX_FRAME_BYTES])
{
    uint8_t body[EXO_MAX_BODY_BYTES];
    const uint16_t fields = frame->type == EXO_SENSOR ? frame->as.sensor.fields : 0;
    uint8_t *at = body;
    if (payload_size(frame->type, fields) == 0) {
        return 0;
    }
    at = put_u8(at, frame->version);
    at = put_u8(at, frame->type);
    at = put_u16(at, frame->flags);
    at = put_u32(at, frame->sequence);
    switch (frame->type) {
    case EXO_HELLO:
        at = put_hello(at, &frame->as.hello);
        break;
    case EXO_HELLO_ACK:
        at = put_hello(at, &frame->as.hello_ack.device);
        at = put_u8(at, frame->as.hello_ack.result);
        at = put_u8(at, frame->as.hello_ack.state);
        at = put_u8(at, frame->as.hello_ack.latch_reason);
        at = put_u8(at, 0);
        at = put_text(at, frame->as.hello_ack.firmware, EXO_FIRMWARE_BYTES);
        break;
    case EXO_SENSOR:
        at = put_sensor(at, &frame->as.sensor);
        break;
    case EXO_TORQUE:
        at = put_u32(at, frame->as.torque.session);
        at = put_u32(at, frame->as.torque.echo);
        at = put_u16(at, frame->as.torque.ttl_ms);
        at = put_u16(at, 0);
        at = put_floats(at, frame->as.torque.torque_nm, 2);
        break;
    case EXO_ARM:
        at = put_u32(at, frame->as.arm.session);
        at = put_u32(at, frame->as.arm.echo);
        break;
    case EXO_DISARM:
        at = put_u32(at, frame->as.disarm.session);
        break;
    case EXO_STOP:
        at = put_u8(at, frame->as.stop.reason);
        at = put_u8(at, 0);
        at = put_u16(at, 0);
        break;
    default: /* EXO_REQUEST */
        at = put_u16(at, frame->as.request.kind);
        at = put_u16(at, 0);
        at = put_floats(at, &frame->as.request.value, 1);
        at = put_floats(at, &frame->as.request.second, 1);
        break;
    }
    at = put_u32(at, exo_crc32(body, (size_t)(at - body)));
    const size_t size = exo_cobs_encode(body, (size_t)(at - body), out);
    out[size] = 0;
    return size + 1;
}

static void decode_payload(const uint8_t *at, exo_frame *frame)
{
    switch (frame->type) {
    case EXO_HELLO:
        get_hello(&at, &frame->as.hello);
        break;
    case EXO_HELLO_ACK:
        get_hello(&at, &frame->as.hello_ack.device);
        frame->as.hello_ack.result = get_u8(&at);
        frame->as.hello_ack.state = get_u8(&at);
        frame->as.hello_ack.latch_reason = get_u8(&at);
        (void)get_u8(&at);
        get_text(&at, frame->as.hello_ack.firmware, EXO_FIRMWARE_BYTES);
        break;
    case EXO_SENSOR:
        get_sensor(&at, &frame->as.sensor);
        break;
    case EXO_TORQUE:
        frame->as.torque.session = get_u32(&at);
        frame->as.torque.echo = get_u32(&at);
        frame->as.torque.ttl_ms = get_u16(&at);
        (void)get_u16(&at);
        get_floats(&at, frame->as.torque.torque_nm, 2);
        break;
    case EXO_ARM:
        frame->as.arm.session = get_u32(&at);
        frame->as.arm.echo = get_u32(&at);
        break;
    case EXO_DISARM:
        frame->as.disarm.session = get_u32(&at);
        break;
    case EXO_STOP:
        frame->as.stop.reason = get_u8(&at);
        break;
    default: /* EXO_REQUEST */
        frame->as.request.kind = get_u16(&at);
        (void)get_u16(&at);
        get_floats(&at, &frame->as.request.value, 1);
        get_floats(&at, &frame->as.request.second, 1);
        break;
    }
}

void exo_decoder_init(exo_decoder *decoder)
{
    memset(decoder, 0, sizeof *decoder);
}

static exo_event decode_block(exo_decoder *decoder, exo_frame *frame)
{
    uint8_t body[EXO_MAX_ENCODED_BYTES];
    const int decoded = exo_cobs_decode(decoder->block, decoder->size, body);
    if (decoded < 0) {
        decoder->bad_cobs++;
        return EXO_REJECTED;
    }
    if (decoded < EXO_HEADER_BYTES + EXO_CRC_BYTES) {
        decoder->too_short++;
        return EXO_REJECTED;
    }
    const size_t checked = (size_t)decoded - EXO_CRC_BYTES;
    const uint8_t *crc_at = body + checked;
    if (exo_crc32(body, checked) != get_u32(&crc_at)) {
        decoder->bad_crc++;
        return EXO_REJECTED;
    }
    const uint8_t *at = body;
    memset(frame, 0, sizeof *frame);
    frame->version = get_u8(&at);
    frame->type = get_u8(&at);
    frame->flags = get_u16(&at);
    frame->sequence = get_u32(&at);
    if (frame->version != EXO_PROTOCOL_VERSION) {
        decoder->unknown_version++;
        return EXO_OTHER_VERSION;
    }
    if (payload_size(frame->type, 0) == 0) {
        decoder->unknown_type++;
        return EXO_REJECTED;
    }
    const size_t payload = checked - EXO_HEADER_BYTES;
    uint16_t fields = 0;
    if (frame->type == EXO_SENSOR && payload >= SENSOR_FIXED_BYTES) {
        const uint8_t *mask_at = at + 8;
        fields = get_u16(&mask_at);
    }
    if (payload != payload_size(frame->type, fields)) {
        decoder->bad_payload++;
        return EXO_REJECTED;
    }
    decode_payload(at, frame);
    decoder->frames++;
    return EXO_FRAME;
}

exo_event exo_decoder_push(exo_decoder *decoder, uint8_t byte, exo_frame *frame)
{
    if (byte == 0) {
        const bool skipped = decoder->skipping;
        exo_event event = EXO_PENDING;
        decoder->skipping = false;
        if (!skipped && decoder->size > 0) {
            event = decode_block(decoder, frame);
        }
        decoder->size = 0;
        return event;
    }
    if (decoder->skipping) {
        return EXO_PENDING;
    }
    if (decoder->size == EXO_MAX_ENCODED_BYTES) {
        decoder->oversize++;
        decoder->skipping = true;
        decoder->size = 0;
        return EXO_REJECTED;
    }
    decoder->block[decoder->size++] = byte;
    return EXO_PENDING;
}
