/* The safety half of the device: what a microcontroller must do with the frames it receives, whatever the host does.
 *
 * The owner calls three functions from one thread of control, with one monotonic microsecond clock:
 *   exo_controller_receive  whenever bytes have arrived from the host;
 *   exo_controller_tick     about every millisecond: reads the health inputs, gives the torque to command now;
 *   exo_controller_sample   once per sample period: gives the sensor frame to send.
 * and sends what exo_controller_reply gives after exo_controller_receive. All memory is in the two structs below.
 *
 * A torque lives for `ttl_ms` counted from the moment the sample it answers was sent, not from its arrival: a command
 * that waited in a buffer is as old as what it was computed from. In the second half of that life its magnitude is
 * faded linearly, so that the actuators are at zero when it ends and the watchdog latches.
 */
#ifndef EXO_CONTROLLER_H
#define EXO_CONTROLLER_H

#include "exo_protocol.h"

#ifdef __cplusplus
extern "C" {
#endif

#define EXO_SENT_MEMORY 64      /* samples whose sending time is remembered; a power of two, > 50 ms at 500 Hz */
#define EXO_RELEASE_US 25000u   /* disarm and stop bring the torque to zero within this time */
#define EXO_MAX_STEP_US 5000u   /* a late tick moves the torque no further than this much time allows */
#define EXO_MIN_MASS_KG 30.0f
#define EXO_MAX_MASS_KG 150.0f

/* What the device is; kept in flash. */
typedef struct {
    float rate_hz;
    uint64_t profile_hash;
    char profile_name[EXO_NAME_BYTES];
    float torque_limit_nm;
    float torque_rate_limit_nm_s;
    uint16_t ttl_ms; /* longest time to live this device grants, at most EXO_MAX_TTL_MS */
    uint16_t sensor_flags; /* always set in sensor frames: 0, or EXO_SENSOR_SIMULATED */
    char firmware[EXO_FIRMWARE_BYTES];
} exo_config;

/* Health lines, read at every tick. Each one set latches. */
typedef struct {
    bool emergency_stop;
    bool driver_fault;
    bool over_temperature;
} exo_health;

typedef struct {
    uint32_t torque_accepted;
    uint32_t rejected_session;
    uint32_t rejected_value; /* torque not finite, or time to live 0 */
    uint32_t rejected_echo;  /* echo of a sample never sent, forgotten, or not newer than the last accepted */
    uint32_t rejected_stale; /* the answered sample is older than the time to live */
    uint32_t rejected_arm;
    uint32_t ignored; /* requests, and frames that only devices send */
} exo_counters;

typedef struct {
    exo_config config;
    exo_decoder decoder;
    exo_counters counters;
    uint8_t state;
    uint8_t latch_reason;
    uint8_t stop_reason; /* of the last stop frame */
    exo_health health;

    bool greeted; /* a hello has been accepted; the four below are its outcome */
    uint32_t session;
    float torque_limit_nm; /* the smaller of ours and the host's */
    float torque_rate_limit_nm_s;
    uint16_t ttl_ms;

    uint64_t now_us;
    uint64_t tick_us;
    uint64_t release_us; /* when the release ramp began, valid while `releasing` */
    bool started;
    bool releasing;
    bool limited; /* a clamp changed a command since the last sensor frame */

    uint32_t sent_sequence; /* of the newest sensor frame, 0 before the first */
    uint64_t sent_us[EXO_SENT_MEMORY];
    uint32_t arm_floor; /* arm frames must answer a sample after this one */
    uint32_t command_echo;
    uint16_t command_after_us; /* from the answered sample to its answer */
    bool has_command;
    uint64_t command_born_us; /* when the answered sample was sent */
    uint32_t command_ttl_us;
    float command_nm[2];
    float applied_nm[2];

    uint32_t ack_sequence;
    bool ack_pending;
    uint8_t ack_result;
    exo_hello greeting; /* the hello to answer */
} exo_controller;

void exo_controller_init(exo_controller *controller, const exo_config *config);

void exo_controller_receive(exo_controller *controller, const uint8_t *bytes, size_t size, uint64_t now_us);

/* The frame that answers a hello, if one is due; returns its size or 0. */
size_t exo_controller_reply(exo_controller *controller, uint8_t out[EXO_MAX_FRAME_BYTES]);

/* The torque to command from now on, [right, left] in Nm. Always finite and within the limits. */
void exo_controller_tick(exo_controller *controller, exo_health health, uint64_t now_us, float torque_nm[2]);

/* The next sensor frame; `measured` gives the gyroscopes and the optional groups, the rest is filled in here.
 * Returns its size, 0 until a host has been accepted. */
size_t exo_controller_sample(exo_controller *controller, const exo_sensor *measured, uint64_t now_us,
                             uint8_t out[EXO_MAX_FRAME_BYTES]);

#ifdef __cplusplus
}
#endif
#endif
