#include "core/logger.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/core_private.h"
#include "core/invariant.h"

#define LOGGER_FD            2
#define LOGGER_CLOSING_BYTES 64 /* of a line, kept for what ends it */
#define LOGGER_DRAIN_NS_MAX  NS_PER_S
#define LOGGER_ERROR_BYTES   768

/* A ring of bytes: [head, head + used) waits to be written, the first `writing_bytes` of it are
 * with the kernel.
 * L1  writing_bytes <= used <= LOGGER_BUFFER_BYTES, and what is being written does not wrap.
 * L2  the buffer holds whole lines, save that the oldest may have lost its start to the kernel. */
struct logger {
    struct io_op op;
    struct reactor *reactor;
    uint32_t head, used;
    uint32_t writing_bytes;
    uint64_t dropped_count; /* lines, since the last one that fitted */
    char last_error[LOGGER_ERROR_BYTES];
    char buffer[LOGGER_BUFFER_BYTES];
};

static _Atomic int logger_level_min = LOG_LEVEL_INFO;

void logger_set_level(enum log_level level)
{
    atomic_store_explicit(&logger_level_min, (int)level, memory_order_relaxed);
}

/* ---- one line ------------------------------------------------------------------------------- */

struct line {
    char text[LOGGER_LINE_BYTES_MAX];
    size_t used;
    bool cut; /* something did not fit: nothing more is added but the end */
};

static bool line_fits(const struct line *line, size_t bytes)
{
    return !line->cut && line->used + bytes <= sizeof(line->text) - LOGGER_CLOSING_BYTES;
}

/* All of it, or nothing and the line is marked cut. */
static void line_add(struct line *line, const char *text, size_t bytes)
{
    if (!line_fits(line, bytes)) {
        line->cut = true;
        return;
    }
    memcpy(line->text + line->used, text, bytes);
    line->used += bytes;
}

static void line_add_text(struct line *line, const char *text)
{
    line_add(line, text, strlen(text));
}

static void line_add_u64(struct line *line, uint64_t value, uint32_t base)
{
    char digits[20];
    size_t at = sizeof(digits);
    do {
        digits[--at] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value != 0);
    line_add(line, digits + at, sizeof(digits) - at);
}

static void line_add_padded(struct line *line, uint64_t value, uint32_t width)
{
    char digits[20];
    invariant(width <= sizeof(digits));
    for (uint32_t i = width; i-- > 0; value /= 10)
        digits[i] = (char)('0' + value % 10);
    line_add(line, digits, width);
}

/* Length of the well-formed UTF-8 sequence at `at`; 0 when there is none (overlong forms,
 * surrogates and what is past U+10FFFF included). */
static size_t utf8_sequence(const unsigned char *at)
{
    unsigned char lead = at[0];
    if (lead < 0x80)
        return 1;
    size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    if (lead < 0xc2 || lead > 0xf4)
        return 0;
    for (size_t i = 1; i < length; i++) {
        if ((at[i] & 0xc0) != 0x80) /* also ends at the terminating zero */
            return 0;
    }
    bool overlong = (lead == 0xe0 && at[1] < 0xa0) || (lead == 0xf0 && at[1] < 0x90);
    bool surrogate = lead == 0xed && at[1] >= 0xa0;
    bool too_large = lead == 0xf4 && at[1] >= 0x90;
    return overlong || surrogate || too_large ? 0 : length;
}

static void line_add_escaped_character(struct line *line, unsigned char character)
{
    static const char hex[] = "0123456789abcdef";
    char escape[6] = {'\\', 'u', '0', '0', hex[character >> 4], hex[character & 15]};
    switch (character) {
    case '"':
    case '\\':
        escape[1] = (char)character;
        break;
    case '\n':
        escape[1] = 'n';
        break;
    case '\r':
        escape[1] = 'r';
        break;
    case '\t':
        escape[1] = 't';
        break;
    default:
        line_add(line, escape, sizeof(escape));
        return;
    }
    line_add(line, escape, 2);
}

/* A JSON string. Text that does not fit loses its end, not its closing quote. */
static void line_add_string(struct line *line, const char *text)
{
    const unsigned char *at = (const unsigned char *)(text == NULL ? "" : text);
    line_add(line, "\"", 1);
    if (line->cut)
        return;
    while (*at != '\0' && !line->cut) {
        size_t length = utf8_sequence(at);
        if (length == 0)
            line_add(line, "\\ufffd", 6);
        else if (length == 1 && (*at < 0x20 || *at == '"' || *at == '\\' || *at == 0x7f))
            line_add_escaped_character(line, *at);
        else
            line_add(line, (const char *)at, length);
        at += length == 0 ? 1 : length;
    }
    line->text[line->used++] = '"'; /* within LOGGER_CLOSING_BYTES */
}

/* "2006-01-02T15:04:05.999999Z". Not gmtime_r(): that may read the time zone from the file system.
 * Days to a civil date as in Howard Hinnant's days algorithms, for years from 1970 on. */
static void line_add_time(struct line *line, int64_t wall_ns)
{
    uint64_t us = wall_ns < 0 ? 0 : (uint64_t)wall_ns / NS_PER_US;
    uint64_t seconds = us / 1000000;
    uint64_t day = seconds / 86400 + 719468; /* since 0000-03-01 */
    uint64_t era = day / 146097;
    uint64_t day_of_era = day % 146097;
    uint64_t year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    uint64_t day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    uint64_t month_from_march = (5 * day_of_year + 2) / 153;
    uint64_t month = month_from_march < 10 ? month_from_march + 3 : month_from_march - 9;
    line_add_padded(line, era * 400 + year_of_era + (month <= 2), 4);
    line_add(line, "-", 1);
    line_add_padded(line, month, 2);
    line_add(line, "-", 1);
    line_add_padded(line, day_of_year - (153 * month_from_march + 2) / 5 + 1, 2);
    line_add(line, "T", 1);
    line_add_padded(line, seconds / 3600 % 24, 2);
    line_add(line, ":", 1);
    line_add_padded(line, seconds / 60 % 60, 2);
    line_add(line, ":", 1);
    line_add_padded(line, seconds % 60, 2);
    line_add(line, ".", 1);
    line_add_padded(line, us % 1000000, 6);
    line_add(line, "Z", 1);
}

static void line_add_value(struct line *line, const struct log_field *field)
{
    switch (field->kind) {
    case LOG_FIELD_TEXT:
        line_add_string(line, field->text);
        break;
    case LOG_FIELD_U64:
        line_add_u64(line, field->u64, 10);
        break;
    case LOG_FIELD_I64:
        if (field->i64 < 0)
            line_add(line, "-", 1);
        line_add_u64(line, field->i64 < 0 ? 0 - (uint64_t)field->i64 : (uint64_t)field->i64, 10);
        break;
    case LOG_FIELD_HEX:
        line_add(line, "\"", 1);
        line_add_u64(line, field->u64, 16);
        line_add(line, "\"", 1);
        break;
    case LOG_FIELD_BOOL:
        line_add_text(line, field->boolean ? "true" : "false");
        break;
    }
}

/* A field is there whole, or, if it is text, with a shortened value; or not at all. */
static void line_add_field(struct line *line, const struct log_field *field)
{
    size_t before = line->used;
    line_add(line, ",", 1);
    line_add_string(line, field->name);
    line_add(line, ":", 1);
    bool named = !line->cut;
    if (named)
        line_add_value(line, field);
    if (line->cut && !(named && field->kind == LOG_FIELD_TEXT &&
                       line->text[line->used - 1] == '"' && line->used > before + 4))
        line->used = before;
}

static const char *level_name(enum log_level level)
{
    switch (level) {
    case LOG_LEVEL_DEBUG:
        return "debug";
    case LOG_LEVEL_INFO:
        return "info";
    case LOG_LEVEL_WARN:
        return "warn";
    case LOG_LEVEL_ERROR:
        return "error";
    case LOG_LEVEL_NONE:
        break;
    }
    invariant(!"a log level");
    return NULL;
}

static void line_end(struct line *line)
{
    static const char cut_mark[] = ",\"cut\":true";
    if (line->cut) {
        line->cut = false;
        memcpy(line->text + line->used, cut_mark, sizeof(cut_mark) - 1);
        line->used += sizeof(cut_mark) - 1;
    }
    line->text[line->used++] = '}';
    line->text[line->used++] = '\n';
    invariant(line->used <= sizeof(line->text));
}

/* ---- the buffer of a core ------------------------------------------------------------------- */

static void logger_written(struct io_op *op, int32_t result)
{
    struct logger *logger = container_of(op, struct logger, op);
    invariant(logger->writing_bytes > 0 && logger->writing_bytes <= logger->used);
    uint32_t consumed = 0;
    if (result > 0)
        consumed = (uint32_t)result;
    else if (result != -EAGAIN && result != -EINTR)
        consumed = logger->writing_bytes; /* nobody reads standard error any more */
    invariant(consumed <= logger->writing_bytes);
    logger->writing_bytes = 0;
    logger->used -= consumed;
    logger->head = (logger->head + consumed) % LOGGER_BUFFER_BYTES;
}

void logger_flush(struct logger *logger)
{
    if (logger->used == 0 || logger->writing_bytes > 0)
        return;
    logger->writing_bytes = (uint32_t)u64_min(logger->used, LOGGER_BUFFER_BYTES - logger->head);
    reactor_write_stream(logger->reactor, &logger->op, LOGGER_FD, logger->buffer + logger->head,
                         logger->writing_bytes);
}

static bool logger_push(struct logger *logger, const struct line *line)
{
    if (line->used > LOGGER_BUFFER_BYTES - logger->used)
        return false;
    uint32_t tail = (logger->head + logger->used) % LOGGER_BUFFER_BYTES;
    size_t before_wrap = u64_min(line->used, LOGGER_BUFFER_BYTES - tail);
    memcpy(logger->buffer + tail, line->text, before_wrap);
    memcpy(logger->buffer, line->text + before_wrap, line->used - before_wrap);
    logger->used += (uint32_t)line->used;
    return true;
}

static void write_now(const char *bytes, size_t count)
{
    while (count > 0) {
        ssize_t written = write(LOGGER_FD, bytes, count);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return;
        bytes += written;
        count -= (size_t)written;
    }
}

/* The process is about to abort: what this core still holds goes out past the reactor. Lines that
 * the kernel has but did not confirm may appear twice; better than not at all. */
static void logger_flush_now(void)
{
    struct core *core = core_current();
    if (core == NULL || core->logger == NULL)
        return;
    struct logger *logger = core->logger;
    uint32_t before_wrap = (uint32_t)u64_min(logger->used, LOGGER_BUFFER_BYTES - logger->head);
    write_now(logger->buffer + logger->head, before_wrap);
    write_now(logger->buffer, logger->used - before_wrap);
    logger->used = 0;
}

struct logger *logger_create(struct reactor *reactor)
{
    struct logger *logger = malloc(sizeof(*logger));
    invariant(logger != NULL);
    memset(logger, 0, offsetof(struct logger, buffer));
    io_op_init(&logger->op, logger_written);
    logger->reactor = reactor;
    fatal_set_flush(logger_flush_now);
    return logger;
}

bool logger_destroy(struct logger *logger)
{
    uint64_t give_up_ns = reactor_clock_ns(logger->reactor) + LOGGER_DRAIN_NS_MAX;
    while (logger->used > 0 && reactor_clock_ns(logger->reactor) < give_up_ns) {
        logger_flush(logger);
        reactor_poll(logger->reactor, true, give_up_ns);
    }
    if (logger->writing_bytes > 0)
        return false; /* whoever reads standard error stalls: the kernel still owns those bytes */
    free(logger);
    return true;
}

/* ---- the way in ----------------------------------------------------------------------------- */

static void line_compose(struct line *line, enum log_level level, int64_t wall_ns, const char *file,
                         int line_number, const char *message)
{
    line->used = 0;
    line->cut = false;
    line_add_text(line, "{\"level\":\"");
    line_add_text(line, level_name(level));
    line_add_text(line, "\",\"ts\":\"");
    line_add_time(line, wall_ns);
    line_add_text(line, "\",\"caller\":\"");
    line_add_text(line, file);
    line_add_text(line, ":");
    line_add_u64(line, (uint64_t)line_number, 10);
    line_add_text(line, "\",\"msg\":");
    line_add_string(line, message);
}

static void remember_error(struct logger *logger, const char *message,
                           const struct log_field *fields, size_t field_count)
{
    struct line line = {.used = 0};
    line_add_text(&line, message);
    for (size_t i = 0; i < field_count; i++) {
        line_add_text(&line, i == 0 ? " (" : ", ");
        line_add_text(&line, fields[i].name);
        line_add_text(&line, " ");
        if (fields[i].kind == LOG_FIELD_TEXT)
            line_add_text(&line, fields[i].text == NULL ? "" : fields[i].text);
        else
            line_add_value(&line, &fields[i]);
    }
    line_add_text(&line, field_count == 0 ? "" : ")");
    size_t bytes = u64_min(line.used, sizeof(logger->last_error) - 1);
    memcpy(logger->last_error, line.text, bytes);
    logger->last_error[bytes] = '\0';
}

const char *logger_last_error(void)
{
    const struct core *core = core_current();
    return core == NULL || core->logger == NULL ? "" : core->logger->last_error;
}

void logger_write(enum log_level level, const char *file, int line_number, const char *message,
                  const struct log_field *fields, size_t field_count)
{
    struct core *core = core_current();
    struct logger *logger = core == NULL ? NULL : core->logger;
    if (level == LOG_LEVEL_ERROR && logger != NULL)
        remember_error(logger, message, fields, field_count);
    if ((int)level < atomic_load_explicit(&logger_level_min, memory_order_relaxed))
        return;
    struct line line;
    line_compose(&line, level, reactor_wall_ns(core == NULL ? NULL : core->reactor), file,
                 line_number, message);
    for (size_t i = 0; i < field_count; i++)
        line_add_field(&line, &fields[i]);
    if (logger != NULL && logger->dropped_count > 0)
        line_add_field(&line, &LOG_U64("dropped_lines", logger->dropped_count));
    line_end(&line);

    if (logger == NULL)
        write_now(line.text, line.used);
    else if (logger_push(logger, &line))
        logger->dropped_count = 0;
    else
        logger->dropped_count++;
}
