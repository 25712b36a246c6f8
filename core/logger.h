/*
 * logger.h - one JSON object per line on standard error:
 * {"level":"info","ts":"2026-01-02T15:04:05.999999Z","caller":"storage/log/wal.c:120","msg":..,..}.
 *
 * Story     Lines gather in a per-core buffer and leave through the reactor at the end of the turn,
 *           so that a blocked pipe never stalls a core: when the buffer is full, lines are dropped
 *           and the next line that fits says how many ("dropped_lines"). Before a core exists
 *           (start-up) lines are written at once, and fatal() writes what its core still holds.
 * Owner     The core it is called on. Field names and texts are borrowed for the call.
 * Threads   Any, each through its own core's buffer.
 * Limits    LOGGER_LINE_BYTES_MAX per line (longer ones are cut and say "cut":true);
 *           LOGGER_BUFFER_BYTES per core.
 *
 *   log_info("segment recycled", LOG_U64("first_index", first), LOG_TEXT("file", path));
 */
#ifndef CORE_LOGGER_H
#define CORE_LOGGER_H

#include "core/base.h"

#define LOGGER_LINE_BYTES_MAX 2048
#define LOGGER_BUFFER_BYTES   (64 * 1024)

enum log_level {
    LOG_LEVEL_DEBUG,
    LOG_LEVEL_INFO,
    LOG_LEVEL_WARN,
    LOG_LEVEL_ERROR,
    LOG_LEVEL_NONE, /* of logger_set_level(): nothing is written */
};

enum log_field_kind { LOG_FIELD_TEXT, LOG_FIELD_U64, LOG_FIELD_I64, LOG_FIELD_HEX, LOG_FIELD_BOOL };

struct log_field {
    const char *name;
    enum log_field_kind kind;
    union {
        const char *text;
        uint64_t u64;
        int64_t i64;
        bool boolean;
    };
};

#define LOG_TEXT(field_name, value)                                                                \
    ((struct log_field){.name = (field_name), .kind = LOG_FIELD_TEXT, .text = (value)})
#define LOG_U64(field_name, value)                                                                 \
    ((struct log_field){.name = (field_name), .kind = LOG_FIELD_U64, .u64 = (value)})
#define LOG_I64(field_name, value)                                                                 \
    ((struct log_field){.name = (field_name), .kind = LOG_FIELD_I64, .i64 = (value)})
#define LOG_HEX(field_name, value)                                                                 \
    ((struct log_field){.name = (field_name), .kind = LOG_FIELD_HEX, .u64 = (value)})
#define LOG_BOOL(field_name, value)                                                                \
    ((struct log_field){.name = (field_name), .kind = LOG_FIELD_BOOL, .boolean = (value)})
/* "error": text of a code of core/err.h */
#define LOG_ERROR(code) LOG_TEXT("error", err_text(code))

void logger_write(enum log_level level, const char *file, int line, const char *message,
                  const struct log_field *fields, size_t field_count);

#define logger_write_fields(level, message, ...)                                                   \
    logger_write((level), __FILE__, __LINE__, (message), (const struct log_field[]){__VA_ARGS__},  \
                 sizeof((const struct log_field[]){__VA_ARGS__}) / sizeof(struct log_field))
#define log_debug(message, ...) logger_write_fields(LOG_LEVEL_DEBUG, message, __VA_ARGS__)
#define log_info(message, ...)  logger_write_fields(LOG_LEVEL_INFO, message, __VA_ARGS__)
#define log_warn(message, ...)  logger_write_fields(LOG_LEVEL_WARN, message, __VA_ARGS__)
#define log_error(message, ...) logger_write_fields(LOG_LEVEL_ERROR, message, __VA_ARGS__)

void logger_set_level(enum log_level level); /* process-wide, at start */

/* The last error that this core logged, whatever the level is, as one clause for people:
 * "message (file a, offset 4096, reason b)". For the text with which a program ends that cannot
 * start. "" when there was none; valid until the next error. */
const char *logger_last_error(void);

#endif
