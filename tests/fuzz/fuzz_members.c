/* What tells a member who the others are: questions and answers of a process that joins, before any
 * greeting, and changes of members in log entries that another member forwarded. What decodes must
 * encode within its limits, and decode to the same again. */
#include <stdlib.h>

#include "core/invariant.h"
#include "server/bootstrap.h"
#include "server/membership.h"

enum { TRY_QUESTION, TRY_ANSWER, TRY_CHANGE, TRY_MEMBER, TRY_MEMBERS, TRY_COUNT };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t encoded[MEMBERS_BYTES_MAX], answer[PEER_META_BYTES_MAX];
static struct member_set first, again;
static struct membership membership;

static void try_question(struct bytes question)
{
    first.count = membership.set.count = 0;
    (void)!bootstrap_answer(question, 1, &first, &membership.set, answer, sizeof(answer));
}

static void try_answer(struct bytes bytes)
{
    static struct config config;
    char reason[1024];
    struct identity identity = {.first = &first};
    if (config.advertise_peer.count == 0 &&
        config_url_parse(&config.advertise_peer.url[0], "http://a:1", reason, sizeof(reason)) == 0)
        config.advertise_peer.count = 1;
    int error = bootstrap_take_answer(&config, bytes, &identity, reason, sizeof(reason));
    if (error < 0)
        return;
    invariant(identity.cluster_id != 0 && identity.member_id != 0);
    size_t size = members_encode(&first, encoded); /* as identity_create() will */
    invariant(members_decode(bytes_make(encoded, size), &again) == 0);
    invariant(again.count == first.count);
}

static void try_member(struct bytes bytes)
{
    struct member member, copy;
    if (member_decode(bytes, &member) < 0)
        return;
    size_t size = member_encode(&member, encoded);
    invariant(member_decode(bytes_make(encoded, size), &copy) == 0);
    invariant(copy.id == member.id && copy.life == member.life);
    invariant(copy.learner == member.learner);
    invariant(strcmp(copy.name, member.name) == 0 && copy.peer.count == member.peer.count);
}

/* On a copy of a state in which most changes are possible. */
static void try_change(struct bytes bytes)
{
    struct entry entry = {.index = 1,
                          .term = 1,
                          .type = ENTRY_CONFIG_CHANGE,
                          .payload = bytes.data,
                          .payload_bytes = (uint32_t)bytes.size};
    membership = (struct membership){0};
    for (uint64_t id = 1; id <= 3; id++) {
        struct member member = {.id = id, .learner = id == 3};
        invariant(member_insert(&membership.set, &member) == 0);
    }
    members_config(&membership.set, &membership.config);
    (void)!membership_foresee(&membership, &entry); /* checks its invariants */
    membership_deinit(&membership);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    /* At its own end, so that reading beyond it is noticed. */
    uint8_t *copy = malloc(size > 1 ? size - 1 : 1);
    memcpy(copy, data + 1, size - 1);
    struct bytes bytes = bytes_make(copy, size - 1);
    switch (data[0] % TRY_COUNT) {
    case TRY_QUESTION:
        try_question(bytes);
        break;
    case TRY_ANSWER:
        try_answer(bytes);
        break;
    case TRY_CHANGE:
        try_change(bytes);
        break;
    case TRY_MEMBER:
        try_member(bytes);
        break;
    case TRY_MEMBERS:
        if (members_decode(bytes, &first) == 0)
            invariant(members_encode(&first, encoded) <= sizeof(encoded));
        break;
    }
    free(copy);
    return 0;
}
