/* Coverage-guided fuzzing of the C decoder (libFuzzer; or AFL and replay with -DEXO_FUZZ_STDIN).
 *
 * Every input is used twice: as bytes off the line, and as the body of a frame whose CRC is made right, because no fuzzer
 * guesses a CRC and the code behind it would stay dark. An accepted frame must survive encoding and decoding unchanged.
 */
#include "exo_protocol.h"

#include <stdlib.h>
#include <string.h>

static void require(int condition)
{
    if (!condition) {
        abort();
    }
}

static void check_accepted(const exo_frame *frame)
{
    uint8_t first[EXO_MAX_FRAME_BYTES], second[EXO_MAX_FRAME_BYTES];
    exo_decoder decoder;
    exo_frame again;
    exo_event event = EXO_PENDING;
    const size_t size = exo_encode(frame, first);
    require(size > 0 && size <= sizeof first && memchr(first, 0, size) == first + size - 1);
    exo_decoder_init(&decoder);
    for (size_t i = 0; i < size; i++) {
        event = exo_decoder_push(&decoder, first[i], &again);
    }
    require(event == EXO_FRAME);
    require(exo_encode(&again, second) == size && memcmp(first, second, size) == 0);
}

static uint32_t feed(const uint8_t *data, size_t size)
{
    exo_decoder d;
    exo_frame frame;
    uint32_t events = 0, blocks = 0;
    exo_decoder_init(&d);
    for (size_t i = 0; i < size; i++) {
        const exo_event event = exo_decoder_push(&d, data[i], &frame);
        blocks += data[i] != 0 && (i == 0 || data[i - 1] == 0);
        events += event != EXO_PENDING;
        if (event == EXO_FRAME) {
            check_accepted(&frame);
        }
    }
    require(events == d.frames + d.bad_cobs + d.too_short + d.bad_crc + d.unknown_version + d.unknown_type +
                          d.bad_payload + d.oversize);
    require(events == blocks || events + 1 == blocks);
    return d.frames;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t body[EXO_MAX_BODY_BYTES], encoded[EXO_MAX_FRAME_BYTES], decoded[EXO_MAX_ENCODED_BYTES];
    (void)feed(data, size);
    if (size == 0 || size > EXO_MAX_BODY_BYTES - EXO_CRC_BYTES) {
        return 0;
    }
    memcpy(body, data, size);
    body[0] = (data[0] & 0x0F) ? EXO_PROTOCOL_VERSION : data[0];
    const uint32_t crc = exo_crc32(body, size);
    for (unsigned i = 0; i < EXO_CRC_BYTES; i++) {
        body[size + i] = (uint8_t)(crc >> (8 * i));
    }
    const size_t length = exo_cobs_encode(body, size + EXO_CRC_BYTES, encoded);
    encoded[length] = 0;
    require(exo_cobs_decode(encoded, length, decoded) == (int)(size + EXO_CRC_BYTES));
    require(memcmp(decoded, body, size + EXO_CRC_BYTES) == 0);
    (void)feed(encoded, length + 1);
    return 0;
}

#ifdef EXO_FUZZ_STDIN
#include <stdio.h>
int main(void)
{
    static uint8_t input[1 << 16];
    return LLVMFuzzerTestOneInput(input, fread(input, 1, sizeof input, stdin));
}
#endif
