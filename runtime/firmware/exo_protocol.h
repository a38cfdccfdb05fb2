/* The frames between host and controller, in portable C99: no allocation, no dependencies, no global state.
 *
 * The specification is ../PROTOCOL.md; ../frames.py is the same thing in Python, and tests hold the two together byte
 * for byte. Pairs are [right, left], flexion positive, SI units, torque in Nm. Floats are IEEE 754 binary32.
 */
#ifndef EXO_PROTOCOL_H
#define EXO_PROTOCOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EXO_PROTOCOL_VERSION 2
#define EXO_HEADER_BYTES 8
#define EXO_CRC_BYTES 4
#define EXO_MAX_BODY_BYTES 192                         /* header + payload + CRC */
#define EXO_MAX_ENCODED_BYTES (EXO_MAX_BODY_BYTES + 1) /* after COBS, without the delimiter */
#define EXO_MAX_FRAME_BYTES (EXO_MAX_ENCODED_BYTES + 1)
#define EXO_MAX_PAYLOAD_BYTES (EXO_MAX_BODY_BYTES - EXO_HEADER_BYTES - EXO_CRC_BYTES)
#define EXO_NAME_BYTES 32
#define EXO_FIRMWARE_BYTES 16
#define EXO_MAX_TTL_MS 50

enum exo_type {
    EXO_HELLO = 1,
    EXO_TORQUE = 2,
    EXO_ARM = 3,
    EXO_DISARM = 4,
    EXO_STOP = 5,
    EXO_REQUEST = 6,
    EXO_HELLO_ACK = 128,
    EXO_SENSOR = 129
};

enum exo_sensor_flag {
    EXO_SENSOR_ARMED = 0x0001,
    EXO_SENSOR_LATCHED = 0x0002,
    EXO_SENSOR_DRIVER_FAULT = 0x0004,
    EXO_SENSOR_EMERGENCY_STOP = 0x0008,
    EXO_SENSOR_LIMITED = 0x0010,
    EXO_SENSOR_OVER_TEMPERATURE = 0x0020,
    EXO_SENSOR_SIMULATED = 0x0040
};

enum exo_command_flag {
    EXO_TORQUE_ARMED = 0x0001,
    EXO_TORQUE_DRY_RUN = 0x0002,
    EXO_ARM_CLEAR_LATCH = 0x0001,
    EXO_STOP_IMMEDIATE = 0x0001
};

enum exo_sensor_field {
    EXO_FIELD_JOINT_VELOCITY = 0x0001,
    EXO_FIELD_MEASURED_TORQUE = 0x0002,
    EXO_FIELD_TEMPERATURE = 0x0004,
    EXO_FIELD_GYRO3 = 0x0008,
    EXO_FIELD_ACCELEROMETER = 0x0010,
    EXO_FIELD_HIP_ANGLE = 0x0020,
    EXO_FIELD_ALL = 0x003F
};

enum exo_state { EXO_WAITING = 0, EXO_DISARMED = 1, EXO_ARMED = 2, EXO_LATCHED = 3 };

enum exo_latch {
    EXO_LATCH_NONE = 0,
    EXO_LATCH_WATCHDOG = 1,
    EXO_LATCH_HOST_STOP = 2,
    EXO_LATCH_EMERGENCY_STOP = 3,
    EXO_LATCH_DRIVER_FAULT = 4,
    EXO_LATCH_BAD_COMMAND = 5,
    EXO_LATCH_NEW_SESSION = 6,
    EXO_LATCH_OVER_TEMPERATURE = 7,
    EXO_LATCH_CLOCK = 8
};

enum exo_hello_result {
    EXO_ACCEPTED = 0,
    EXO_WRONG_PROTOCOL = 1,
    EXO_WRONG_RATE = 2,
    EXO_WRONG_PROFILE = 3,
    EXO_WRONG_MASS = 4,
    EXO_WRONG_LIMITS = 5
};

/* A hello, and the first part of its answer. Names are padded with NUL and need not end in one. */
typedef struct {
    uint32_t session;
    uint64_t profile_hash;
    float rate_hz;
    float wearer_mass_kg;
    float torque_limit_nm;
    float torque_rate_limit_nm_s;
    uint16_t ttl_ms;
    char profile_name[EXO_NAME_BYTES];
} exo_hello;

typedef struct {
    exo_hello device;
    uint8_t result;       /* enum exo_hello_result */
    uint8_t state;        /* enum exo_state */
    uint8_t latch_reason; /* enum exo_latch */
    char firmware[EXO_FIRMWARE_BYTES];
} exo_hello_ack;

typedef struct {
    uint64_t device_time_us;
    uint16_t fields; /* enum exo_sensor_field: which of the optional groups below count */
    uint8_t state;
    uint8_t latch_reason;
    uint32_t applied_echo;
    uint16_t applied_after_us; /* from that sample to its answer, 65535 for longer */
    float gyro_rad_s[2];
    float applied_torque_nm[2];
    float joint_velocity_rad_s[2];
    float measured_torque_nm[2];
    float temperature_c[2];
    float gyro3_rad_s[6];       /* right, left: flexion, adduction, internal rotation */
    float acceleration_m_s2[6]; /* right, left: forward, medial, up; specific force */
    float hip_angle_rad[2];
} exo_sensor;

typedef struct {
    uint32_t session;
    uint32_t echo;
    uint16_t ttl_ms;
    float torque_nm[2];
} exo_torque;

typedef struct {
    uint32_t session;
    uint32_t echo;
} exo_arm;

typedef struct {
    uint32_t session;
} exo_disarm;

typedef struct {
    uint8_t reason;
} exo_stop;

typedef struct {
    uint16_t kind;
    float value;
    float second;
} exo_request;

typedef struct {
    uint8_t version;
    uint8_t type; /* enum exo_type */
    uint16_t flags;
    uint32_t sequence;
    union {
        exo_hello hello;
        exo_hello_ack hello_ack;
        exo_sensor sensor;
        exo_torque torque;
        exo_arm arm;
        exo_disarm disarm;
        exo_stop stop;
        exo_request request;
    } as;
} exo_frame;

/* CRC-32/ISO-HDLC, the one of zlib and Ethernet: exo_crc32("123456789") is 0xCBF43926. */
uint32_t exo_crc32(const uint8_t *data, size_t size);

/* COBS without the delimiter, for at most 253 bytes; returns the encoded size (size + 1). */
size_t exo_cobs_encode(const uint8_t *data, size_t size, uint8_t *out);

/* Reverses it in place or into `out` (size - 1 bytes); returns the decoded size, or -1 if `data` is not COBS. */
int exo_cobs_decode(const uint8_t *data, size_t size, uint8_t *out);

/* One frame as bytes, delimiter included; returns their number, 0 if `frame->type` is unknown or a sensor frame asks for
 * unknown fields. `version`, `type`, `flags`, `sequence` and the member of `as` that belongs to the type are used. */
size_t exo_encode(const exo_frame *frame, uint8_t out[EXO_MAX_FRAME_BYTES]);

typedef enum {
    EXO_PENDING = 0,     /* nothing complete yet */
    EXO_FRAME,           /* `frame` is a sound frame of our version */
    EXO_OTHER_VERSION,   /* a sound frame of another version: only its header is filled in */
    EXO_REJECTED         /* a block ended that was not a frame; a counter says why */
} exo_event;

typedef struct {
    uint32_t frames, bad_cobs, too_short, bad_crc, unknown_version, unknown_type, bad_payload, oversize;
    uint8_t block[EXO_MAX_ENCODED_BYTES];
    uint8_t size;
    bool skipping;
} exo_decoder;

void exo_decoder_init(exo_decoder *decoder);

/* One byte in. Never holds more than one frame; finds its feet again at the next delimiter. */
exo_event exo_decoder_push(exo_decoder *decoder, uint8_t byte, exo_frame *frame);

#ifdef __cplusplus
}
#endif
#endif
