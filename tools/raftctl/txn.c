#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/invariant.h"
#include "tools/raftctl/kv.h"
#include "tools/raftctl/print.h"
#include "tools/raftctl/text.h"

/* Compares, or requests, that one section of the text has. */
struct txn_list {
    void **items;
    size_t count;
};

static void txn_list_add(struct txn_list *list, void *item)
{
    if (list->count % 64 == 0) {
        void **grown = realloc(list->items, (list->count + 64) * sizeof(*grown));
        if (grown == NULL)
            raftctl_out_of_memory();
        list->items = grown;
    }
    list->items[list->count++] = item;
}

/* ---- compares ----------------------------------------------------------------------------------
 */

static const struct {
    const char *name, *short_name;
    Etcdserverpb__Compare__CompareTarget target;
    Etcdserverpb__Compare__TargetUnionCase which;
} txn_targets[] = {
    {"version", "ver", ETCDSERVERPB__COMPARE__COMPARE_TARGET__VERSION,
     ETCDSERVERPB__COMPARE__TARGET_UNION_VERSION},
    {"create", "c", ETCDSERVERPB__COMPARE__COMPARE_TARGET__CREATE,
     ETCDSERVERPB__COMPARE__TARGET_UNION_CREATE_REVISION},
    {"mod", "m", ETCDSERVERPB__COMPARE__COMPARE_TARGET__MOD,
     ETCDSERVERPB__COMPARE__TARGET_UNION_MOD_REVISION},
    {"value", "val", ETCDSERVERPB__COMPARE__COMPARE_TARGET__VALUE,
     ETCDSERVERPB__COMPARE__TARGET_UNION_VALUE},
    {"lease", "lease", ETCDSERVERPB__COMPARE__COMPARE_TARGET__LEASE,
     ETCDSERVERPB__COMPARE__TARGET_UNION_LEASE},
};

static const struct {
    const char *text;
    Etcdserverpb__Compare__CompareResult result;
} txn_operators[] = {
    {"=", ETCDSERVERPB__COMPARE__COMPARE_RESULT__EQUAL},
    {"!=", ETCDSERVERPB__COMPARE__COMPARE_RESULT__NOT_EQUAL},
    {">", ETCDSERVERPB__COMPARE__COMPARE_RESULT__GREATER},
    {"<", ETCDSERVERPB__COMPARE__COMPARE_RESULT__LESS},
};

struct txn_compare_text {
    ProtobufCBinaryData key, value;
    char comparison[64];
};

static const char *txn_skip_blanks(const char *at)
{
    return at + strspn(at, " \t\r");
}

/* `"key") = "value"`, with at least one blank between. Returns how many of the three were read. */
static int txn_scan_compare(const char *at, struct txn_compare_text *text)
{
    at = txn_skip_blanks(at);
    const char *end = text_read_quoted(at, (char *)text->key.data, &text->key.len);
    if (end == NULL)
        return 0;
    if (end[0] != ')' || txn_skip_blanks(end + 1) == end + 1)
        return 1;
    at = txn_skip_blanks(end + 1);
    size_t bytes = strcspn(at, " \t\r");
    if (bytes == 0)
        return 1;
    snprintf(text->comparison, sizeof(text->comparison), "%.*s", (int)bytes, at);
    if (txn_skip_blanks(at + bytes) == at + bytes)
        return 2;
    at = txn_skip_blanks(at + bytes);
    return text_read_quoted(at, (char *)text->value.data, &text->value.len) != NULL ? 3 : 2;
}

static void txn_set_target(Etcdserverpb__Compare *compare, const struct txn_compare_text *text,
                           const char *line)
{
    const char *value = (const char *)text->value.data;
    int64_t number = 0;
    const char *wrong = NULL;
    if (compare->target == ETCDSERVERPB__COMPARE__COMPARE_TARGET__VALUE) {
        compare->value = text->value;
        return;
    }
    bool is_lease = compare->target == ETCDSERVERPB__COMPARE__COMPARE_TARGET__LEASE;
    wrong = flags_parse_integer(value, is_lease ? 16 : 10, &number);
    if (wrong != NULL || text->value.len != strlen(value))
        raftctl_fail(RAFTCTL_INVALID_INPUT, "invalid txn compare request: %s", line);
    compare->version = number; /* the four numbers share their place */
    _Static_assert(offsetof(Etcdserverpb__Compare, version) ==
                           offsetof(Etcdserverpb__Compare, lease) &&
                       offsetof(Etcdserverpb__Compare, version) ==
                           offsetof(Etcdserverpb__Compare, mod_revision) &&
                       offsetof(Etcdserverpb__Compare, version) ==
                           offsetof(Etcdserverpb__Compare, create_revision),
                   "members of one union");
}

static void *txn_parse_compare(const struct raftctl *ctl, const char *line)
{
    (void)ctl;
    struct txn_compare_text text = {.key.data = raftctl_allocate(strlen(line) + 1),
                                    .value.data = raftctl_allocate(strlen(line) + 1)};
    Etcdserverpb__Compare *compare = raftctl_allocate(sizeof(*compare));
    const char *parenthesis = strchr(line, '(');
    if (parenthesis == NULL || txn_scan_compare(parenthesis + 1, &text) != 3)
        raftctl_fail(RAFTCTL_INVALID_INPUT,
                     "malformed comparison: %s; expected TARGET(\"KEY\") "
                     "OPERATOR \"VALUE\" with blanks around OPERATOR",
                     line);
    size_t name_bytes = (size_t)(parenthesis - line), target = 0, chosen = 0;
    etcdserverpb__compare__init(compare);
    while (
        target < ARRAY_COUNT(txn_targets) &&
        !bytes_equal(bytes_make(line, name_bytes), bytes_from_text(txn_targets[target].name)) &&
        !bytes_equal(bytes_make(line, name_bytes), bytes_from_text(txn_targets[target].short_name)))
        target++;
    if (target == ARRAY_COUNT(txn_targets))
        raftctl_fail(RAFTCTL_INVALID_INPUT, "malformed comparison: %s (unknown target %.*s)", line,
                     (int)name_bytes, line);
    while (chosen < ARRAY_COUNT(txn_operators) &&
           strcmp(text.comparison, txn_operators[chosen].text) != 0)
        chosen++;
    if (chosen == ARRAY_COUNT(txn_operators))
        raftctl_fail(RAFTCTL_INVALID_INPUT, "malformed comparison: %s (unknown operator %s)", line,
                     text.comparison);
    compare->key = text.key;
    compare->result = txn_operators[chosen].result;
    compare->target = txn_targets[target].target;
    compare->target_union_case = txn_targets[target].which;
    txn_set_target(compare, &text, line);
    return compare;
}

/* ---- requests ----------------------------------------------------------------------------------
 */

static enum flag_result txn_parse_words(struct kv_words *words, const char *verb,
                                        Etcdserverpb__RequestOp *op)
{
    if (strcmp(verb, "put") == 0) {
        op->request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT;
        op->request_put = raftctl_allocate(sizeof(*op->request_put));
        return kv_parse_put(words, op->request_put);
    }
    if (strcmp(verb, "get") == 0) {
        struct kv_get *get = raftctl_allocate(sizeof(*get));
        op->request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE;
        op->request_range = &get->request;
        return kv_parse_get(words, get);
    }
    if (strcmp(verb, "del") == 0) {
        bool warned;
        op->request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_DELETE_RANGE;
        op->request_delete_range = raftctl_allocate(sizeof(*op->request_delete_range));
        enum flag_result result = kv_parse_del(words, op->request_delete_range, &warned);
        if (result == FLAG_PARSED && warned)
            fiber_sleep_until(core_now_ns(words->ctl->core) + KV_DELETE_PAUSE_NS);
        return result;
    }
    return FLAG_WRONG;
}

static void *txn_parse_request(const struct raftctl *ctl, const char *line)
{
    Etcdserverpb__RequestOp *op = raftctl_allocate(sizeof(*op));
    char **words;
    int count;
    if (!text_split(line, &words, &count))
        raftctl_fail(RAFTCTL_INVALID_INPUT, "invalid txn request: %s", line);
    if (count < 2)
        raftctl_fail(RAFTCTL_INVALID_INPUT, "invalid txn compare request: %s", line);
    etcdserverpb__request_op__init(op);
    struct kv_words parse = {.ctl = ctl, .argc = count - 1, .argv = words + 1};
    if (txn_parse_words(&parse, words[0], op) != FLAG_PARSED)
        raftctl_fail(RAFTCTL_INVALID_INPUT, "invalid txn request: %s", line);
    return op;
}

/* ---- the text ----------------------------------------------------------------------------------
 */

static char *txn_trim(char *line)
{
    char *end = line + strlen(line);
    while (end > line && isspace((unsigned char)end[-1]))
        *--end = '\0';
    while (isspace((unsigned char)*line))
        line++;
    return line;
}

/* Up to a blank line; the text may not end before it. */
static void txn_read_section(const struct raftctl *ctl, struct txn_list *list,
                             void *(*parse)(const struct raftctl *ctl, const char *line))
{
    for (;;) {
        char *line = NULL;
        size_t room = 0;
        ssize_t bytes = getline(&line, &room, stdin);
        if (bytes <= 0 || line[bytes - 1] != '\n')
            raftctl_fail(RAFTCTL_INVALID_INPUT, "EOF");
        char *trimmed = txn_trim(line);
        if (*trimmed == '\0') {
            free(line);
            return;
        }
        txn_list_add(list, parse(ctl, trimmed)); /* requests copy what they keep of the line */
        free(line);
    }
}

int txn_run(struct raftctl *ctl, const struct raftctl_command *command, int argc, char **argv)
{
    bool interactive = false;
    struct flag flags[] = {
        {"interactive", 'i', FLAG_SWITCH, &interactive, "ask for each part", false},
    };
    argc = raftctl_parse(ctl, command, flags, ARRAY_COUNT(flags), argc, argv);
    if (argc != 0)
        raftctl_fail(RAFTCTL_BAD_ARGUMENTS, "txn command does not accept argument");
    raftctl_connect(ctl);
    struct txn_list compares = {0}, success = {0}, failure = {0};
    const struct {
        const char *prompt;
        struct txn_list *list;
        void *(*parse)(const struct raftctl *ctl, const char *line);
    } sections[] = {
        {"compares:", &compares, txn_parse_compare},
        {"success requests (get, put, del):", &success, txn_parse_request},
        {"failure requests (get, put, del):", &failure, txn_parse_request},
    };
    for (size_t i = 0; i < ARRAY_COUNT(sections); i++) {
        if (interactive) {
            puts(sections[i].prompt);
            fflush(stdout);
        }
        txn_read_section(ctl, sections[i].list, sections[i].parse);
    }
    Etcdserverpb__TxnRequest request = ETCDSERVERPB__TXN_REQUEST__INIT;
    Etcdserverpb__TxnResponse *response;
    struct kv_failure why;
    request.n_compare = compares.count;
    request.compare = (Etcdserverpb__Compare **)compares.items;
    request.n_success = success.count;
    request.success = (Etcdserverpb__RequestOp **)success.items;
    request.n_failure = failure.count;
    request.failure = (Etcdserverpb__RequestOp **)failure.items;
    if (kv_client_txn(ctl->client, &request, 0, &response, &why) < 0)
        raftctl_fail_call(&why);
    print_txn(ctl, response);
    etcdserverpb__txn_response__free_unpacked(response, NULL);
    return RAFTCTL_OK;
}
