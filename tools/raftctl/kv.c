#include "tools/raftctl/kv.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/invariant.h"
#include "tools/raftctl/print.h"
#include "tools/raftctl/text.h"

static ProtobufCBinaryData kv_text(char *text)
{
    return (ProtobufCBinaryData){.len = strlen(text), .data = (uint8_t *)text};
}

static uint8_t kv_zero_byte[] = {0}; /* as a key: the lowest; as an end: no end */

static const ProtobufCBinaryData kv_zero = {.len = 1, .data = kv_zero_byte};

/* The end of the interval of all keys that begin with `key`. */
static ProtobufCBinaryData kv_prefix_end(ProtobufCBinaryData key)
{
    size_t bytes = key.len;
    while (bytes > 0 && key.data[bytes - 1] == 0xff)
        bytes--;
    if (bytes == 0)
        return kv_zero;
    uint8_t *end = raftctl_allocate(bytes);
    memcpy(end, key.data, bytes);
    end[bytes - 1]++;
    return (ProtobufCBinaryData){.len = bytes, .data = end};
}

/* From the one or two arguments of get and del. */
static void kv_interval(struct kv_words *words, bool prefix, bool from_key,
                        ProtobufCBinaryData *key, ProtobufCBinaryData *end)
{
    if (prefix && from_key)
        raftctl_fail(RAFTCTL_BAD_ARGUMENTS,
                     "`--prefix` and `--from-key` cannot be set at the same time, choose one");
    if (words->argc > 1 && (prefix || from_key))
        raftctl_fail(RAFTCTL_BAD_ARGUMENTS, "too many arguments, only accept one argument when "
                                            "`--prefix` or `--from-key` is set");
    *key = kv_text(words->argv[0]);
    if (words->argc > 1) {
        *end = kv_text(words->argv[1]);
    } else if (prefix && key->len > 0) {
        *end = kv_prefix_end(*key);
    } else if (prefix || from_key) {
        if (key->len == 0)
            *key = kv_zero;
        *end = kv_zero;
    }
}

/* On the command line the process ends when a flag is wrong. */
static enum flag_result kv_parse_flags(struct kv_words *words, struct flag *flags, uint32_t count)
{
    struct flag_table table = {flags, count};
    if (words->command == NULL)
        return flags_parse(&table, 1, false, &words->argc, words->argv, words->reason);
    words->argc = raftctl_parse(words->ctl, words->command, flags, count, words->argc, words->argv);
    return FLAG_PARSED;
}

/* ---- get ---------------------------------------------------------------------------------------
 */

static Etcdserverpb__RangeRequest__SortOrder kv_sort_order(const char *name)
{
    if (strcasecmp(name, "ASCEND") == 0)
        return ETCDSERVERPB__RANGE_REQUEST__SORT_ORDER__ASCEND;
    if (strcasecmp(name, "DESCEND") == 0)
        return ETCDSERVERPB__RANGE_REQUEST__SORT_ORDER__DESCEND;
    if (*name != '\0')
        raftctl_fail(RAFTCTL_BAD_FEATURE, "bad sort order %s", name);
    return ETCDSERVERPB__RANGE_REQUEST__SORT_ORDER__NONE;
}

static Etcdserverpb__RangeRequest__SortTarget kv_sort_target(const char *name)
{
    static const struct {
        const char *name;
        Etcdserverpb__RangeRequest__SortTarget target;
    } targets[] = {{"CREATE", ETCDSERVERPB__RANGE_REQUEST__SORT_TARGET__CREATE},
                   {"KEY", ETCDSERVERPB__RANGE_REQUEST__SORT_TARGET__KEY},
                   {"MODIFY", ETCDSERVERPB__RANGE_REQUEST__SORT_TARGET__MOD},
                   {"VALUE", ETCDSERVERPB__RANGE_REQUEST__SORT_TARGET__VALUE},
                   {"VERSION", ETCDSERVERPB__RANGE_REQUEST__SORT_TARGET__VERSION},
                   {"", ETCDSERVERPB__RANGE_REQUEST__SORT_TARGET__KEY}};
    for (size_t i = 0; i < ARRAY_COUNT(targets); i++) {
        if (strcasecmp(name, targets[i].name) == 0)
            return targets[i].target;
    }
    raftctl_fail(RAFTCTL_BAD_FEATURE, "bad sort target %s", name);
}

/* 0 turns a bound off, and so does what is below. */
static void kv_revision_bounds(const char *name, int64_t least, int64_t most, int64_t *least_to,
                               int64_t *most_to)
{
    if (most > 0 && least > most)
        raftctl_fail(RAFTCTL_BAD_FEATURE, "getMin%s(=%" PRId64 ") > getMax%s(=%" PRId64 ")", name,
                     least, name, most);
    *least_to = least > 0 ? least : 0;
    *most_to = most > 0 ? most : 0;
}

enum flag_result kv_parse_get(struct kv_words *words, struct kv_get *get)
{
    const char *consistency = "l", *order = "", *sort_by = "";
    bool prefix = false, from_key = false, keys_only = false, count_only = false;
    int64_t limit = 0, revision = 0, min_create = 0, max_create = 0, min_mod = 0, max_mod = 0;
    get->value_only = false;
    struct flag flags[] = {
        {"consistency", 0, FLAG_TEXT, &consistency, "l: linearizable, s: serializable", false},
        {"order", 0, FLAG_TEXT, &order, "ASCEND or DESCEND", false},
        {"sort-by", 0, FLAG_TEXT, &sort_by, "CREATE, KEY, MODIFY, VALUE or VERSION", false},
        {"limit", 0, FLAG_INTEGER, &limit, "how many at most", false},
        {"prefix", 0, FLAG_SWITCH, &prefix, "every key that begins with KEY", false},
        {"from-key", 0, FLAG_SWITCH, &from_key, "every key from KEY on", false},
        {"rev", 0, FLAG_INTEGER, &revision, "as of this revision", false},
        {"keys-only", 0, FLAG_SWITCH, &keys_only, "without the values", false},
        {"count-only", 0, FLAG_SWITCH, &count_only, "only how many", false},
        {"print-value-only", 0, FLAG_SWITCH, &get->value_only, "print no keys", false},
        {"min-create-rev", 0, FLAG_INTEGER, &min_create, "created at this revision or later",
         false},
        {"max-create-rev", 0, FLAG_INTEGER, &max_create, "or earlier", false},
        {"min-mod-rev", 0, FLAG_INTEGER, &min_mod, "modified at this revision or later", false},
        {"max-mod-rev", 0, FLAG_INTEGER, &max_mod, "or earlier", false},
    };
    enum flag_result result = kv_parse_flags(words, flags, ARRAY_COUNT(flags));
    if (result != FLAG_PARSED)
        return result;
    if (words->argc == 0)
        raftctl_fail(RAFTCTL_BAD_ARGUMENTS, "get command needs one argument as key and an optional "
                                            "argument as range_end");
    if (prefix && from_key)
        raftctl_fail(RAFTCTL_BAD_ARGUMENTS,
                     "`--prefix` and `--from-key` cannot be set at the same time, choose one");
    if (keys_only && count_only)
        raftctl_fail(RAFTCTL_BAD_ARGUMENTS,
                     "`--keys-only` and `--count-only` cannot be set at the same time, choose one");
    if (strcmp(consistency, "l") != 0 && strcmp(consistency, "s") != 0)
        raftctl_fail(RAFTCTL_BAD_FEATURE, "unknown consistency flag \"%s\"", consistency);
    Etcdserverpb__RangeRequest *request = &get->request;
    etcdserverpb__range_request__init(request);
    kv_interval(words, prefix, from_key, &request->key, &request->range_end);
    request->serializable = strcmp(consistency, "s") == 0;
    request->limit = limit;
    request->revision = revision > 0 ? revision : 0;
    request->sort_order = kv_sort_order(order);
    request->sort_target = kv_sort_target(sort_by);
    request->keys_only = keys_only;
    request->count_only = count_only;
    kv_revision_bounds("CreateRev", min_create, max_create, &request->min_create_revision,
                       &request->max_create_revision);
    kv_revision_bounds("ModRev", min_mod, max_mod, &request->min_mod_revision,
                       &request->max_mod_revision);
    return FLAG_PARSED;
}

/* ---- put ---------------------------------------------------------------------------------------
 */

static ProtobufCBinaryData kv_read_all(FILE *from)
{
    size_t room = 4096, bytes = 0, got;
    uint8_t *data = malloc(room);
    while (data != NULL && (got = fread(data + bytes, 1, room - bytes, from)) > 0) {
        bytes += got;
        if (bytes == room)
            data = realloc(data, room *= 2);
    }
    if (data == NULL)
        raftctl_out_of_memory();
    return (ProtobufCBinaryData){.len = bytes, .data = data};
}

enum flag_result kv_parse_put(struct kv_words *words, Etcdserverpb__PutRequest *put)
{
    const char *lease = "0";
    bool prev_kv = false, ignore_value = false, ignore_lease = false;
    struct flag flags[] = {
        {"lease", 0, FLAG_TEXT, &lease, "lease id (hexadecimal) to attach the key to", false},
        {"prev-kv", 0, FLAG_SWITCH, &prev_kv, "print the pair as it was before", false},
        {"ignore-value", 0, FLAG_SWITCH, &ignore_value, "keep the current value", false},
        {"ignore-lease", 0, FLAG_SWITCH, &ignore_lease, "keep the current lease", false},
    };
    enum flag_result result = kv_parse_flags(words, flags, ARRAY_COUNT(flags));
    if (result != FLAG_PARSED)
        return result;
    if (words->argc == 0)
        raftctl_fail(RAFTCTL_BAD_ARGUMENTS,
                     "put command needs 1 argument and input from stdin or 2 arguments");
    if (ignore_value && words->argc > 1)
        raftctl_fail(RAFTCTL_BAD_ARGUMENTS,
                     "put command needs only 1 argument when 'ignore-value' is set");
    etcdserverpb__put_request__init(put);
    put->key = kv_text(words->argv[0]);
    if (!ignore_value) {
        put->value = words->argc > 1 ? kv_text(words->argv[1]) : kv_read_all(stdin);
        if (words->argc == 1 && put->value.len == 0)
            raftctl_fail(RAFTCTL_BAD_ARGUMENTS,
                         "put command needs 1 argument and input from stdin or 2 arguments");
    }
    const char *wrong = flags_parse_integer(lease, 16, &put->lease);
    if (wrong != NULL)
        raftctl_fail(RAFTCTL_BAD_ARGUMENTS,
                     "bad lease ID (strconv.ParseInt: parsing \"%s\": %s), expecting ID in Hex",
                     lease, wrong);
    put->prev_kv = prev_kv;
    put->ignore_value = ignore_value;
    put->ignore_lease = ignore_lease;
    return FLAG_PARSED;
}

/* ---- del ---------------------------------------------------------------------------------------
 */

enum flag_result kv_parse_del(struct kv_words *words, Etcdserverpb__DeleteRangeRequest *del,
                              bool *warned)
{
    bool prefix = false, from_key = false, prev_kv = false, range = false;
    struct flag flags[] = {
        {"prefix", 0, FLAG_SWITCH, &prefix, "every key that begins with KEY", false},
        {"from-key", 0, FLAG_SWITCH, &from_key, "every key from KEY on", false},
        {"prev-kv", 0, FLAG_SWITCH, &prev_kv, "print the pairs that are deleted", false},
        {"range", 0, FLAG_SWITCH, &range, "delete an interval without a pause before", false},
    };
    enum flag_result result = kv_parse_flags(words, flags, ARRAY_COUNT(flags));
    if (result != FLAG_PARSED)
        return result;
    if (words->argc == 0 || words->argc > 2)
        raftctl_fail(RAFTCTL_BAD_ARGUMENTS, "del command needs one argument as key and an optional "
                                            "argument as range_end");
    etcdserverpb__delete_range_request__init(del);
    kv_interval(words, prefix, from_key, &del->key, &del->range_end);
    del->prev_kv = prev_kv;
    *warned = words->argc == 2 && !range;
    if (*warned) {
        fputs("Warning: Keys between ", stderr);
        text_write_quoted(stderr, bytes_from_text(words->argv[0]));
        fputs(" and ", stderr);
        text_write_quoted(stderr, bytes_from_text(words->argv[1]));
        fputs(" will be deleted. Please interrupt the command within next 2 seconds to cancel. You "
              "can provide `--range` flag to avoid the delay.\n",
              stderr);
    }
    return FLAG_PARSED;
}

/* ---- commands ----------------------------------------------------------------------------------
 */

int kv_run_get(struct raftctl *ctl, const struct raftctl_command *command, int argc, char **argv)
{
    struct kv_words words = {.ctl = ctl, .command = command, .argc = argc, .argv = argv};
    struct kv_get get;
    struct kv_failure failure;
    Etcdserverpb__RangeResponse *response;
    enum flag_result parsed = kv_parse_get(&words, &get);
    invariant(parsed == FLAG_PARSED);
    raftctl_connect(ctl);
    if (kv_client_range(ctl->client, &get.request, 0, &response, &failure) < 0)
        raftctl_fail_call(&failure);
    if (get.request.count_only && ctl->output != RAFTCTL_FIELDS)
        raftctl_fail(RAFTCTL_BAD_ARGUMENTS, "--count-only is only for `--write-out=fields`");
    if (get.value_only && ctl->output != RAFTCTL_SIMPLE)
        raftctl_fail(RAFTCTL_BAD_ARGUMENTS, "print-value-only is only for `--write-out=simple`");
    print_range(ctl, response, get.value_only);
    etcdserverpb__range_response__free_unpacked(response, NULL);
    return RAFTCTL_OK;
}

int kv_run_put(struct raftctl *ctl, const struct raftctl_command *command, int argc, char **argv)
{
    struct kv_words words = {.ctl = ctl, .command = command, .argc = argc, .argv = argv};
    struct kv_failure failure;
    Etcdserverpb__PutRequest put;
    Etcdserverpb__PutResponse *response;
    enum flag_result parsed = kv_parse_put(&words, &put);
    invariant(parsed == FLAG_PARSED);
    raftctl_connect(ctl);
    if (kv_client_put(ctl->client, &put, 0, &response, &failure) < 0)
        raftctl_fail_call(&failure);
    print_put(ctl, response);
    etcdserverpb__put_response__free_unpacked(response, NULL);
    return RAFTCTL_OK;
}

int kv_run_del(struct raftctl *ctl, const struct raftctl_command *command, int argc, char **argv)
{
    struct kv_words words = {.ctl = ctl, .command = command, .argc = argc, .argv = argv};
    struct kv_failure failure;
    bool warned = false;
    Etcdserverpb__DeleteRangeRequest del;
    Etcdserverpb__DeleteRangeResponse *response;
    enum flag_result parsed = kv_parse_del(&words, &del, &warned);
    invariant(parsed == FLAG_PARSED);
    if (warned)
        fiber_sleep_until(core_now_ns(ctl->core) + KV_DELETE_PAUSE_NS);
    raftctl_connect(ctl);
    if (kv_client_delete_range(ctl->client, &del, 0, &response, &failure) < 0)
        raftctl_fail_call(&failure);
    print_delete(ctl, response);
    etcdserverpb__delete_range_response__free_unpacked(response, NULL);
    return RAFTCTL_OK;
}

int kv_run_compaction(struct raftctl *ctl, const struct raftctl_command *command, int argc,
                      char **argv)
{
    bool physical = false;
    struct flag flags[] = {
        {"physical", 0, FLAG_SWITCH, &physical, "wait until old revisions are gone from disk",
         false},
    };
    struct kv_failure failure;
    Etcdserverpb__CompactionRequest request = ETCDSERVERPB__COMPACTION_REQUEST__INIT;
    Etcdserverpb__CompactionResponse *response;
    argc = raftctl_parse(ctl, command, flags, ARRAY_COUNT(flags), argc, argv);
    if (argc != 1)
        raftctl_fail(RAFTCTL_BAD_ARGUMENTS, "compaction command needs 1 argument");
    const char *wrong = flags_parse_integer(argv[0], 10, &request.revision);
    if (wrong != NULL)
        raftctl_fail(RAFTCTL_ERROR, "strconv.ParseInt: parsing \"%s\": %s", argv[0], wrong);
    request.physical = physical;
    raftctl_connect(ctl);
    if (kv_client_compact(ctl->client, &request, 0, &response, &failure) < 0)
        raftctl_fail_call(&failure);
    printf("compacted revision %" PRId64 "\n", request.revision);
    etcdserverpb__compaction_response__free_unpacked(response, NULL);
    return RAFTCTL_OK;
}
