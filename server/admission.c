#include "server/admission.h"

#include <inttypes.h>
#include <stdio.h>

#include "core/invariant.h"
#include "server/membership.h"

/* docs/formats/peer-frame.md: the flag, the life, then addresses, separated by commas. */
#define FLAG_FRESH  '1'
#define FLAG_KNOWN  '0'
#define LIFE_PREFIX "life="
#define LIFE_DIGITS 16

/* ---- greetings ------------------------------------------------------------------------------ */

void greeting_write(char text[GREETING_BYTES_MAX], uint64_t life, const struct config_urls *urls)
{
    size_t used = (size_t)snprintf(text, GREETING_BYTES_MAX, "%c" LIFE_PREFIX "%016" PRIx64,
                                   FLAG_FRESH, life);
    for (uint32_t i = 0; i < urls->count; i++)
        used += (size_t)snprintf(text + used, GREETING_BYTES_MAX - used, ",%s", urls->url[i].text);
    invariant(life != 0 && used < GREETING_BYTES_MAX);
}

void greeting_set_fresh(char text[GREETING_BYTES_MAX], bool fresh)
{
    text[0] = fresh ? FLAG_FRESH : FLAG_KNOWN;
}

static int life_read(const char *digits, uint64_t *life)
{
    *life = 0;
    for (uint32_t i = 0; i < LIFE_DIGITS; i++) {
        const char *all = "0123456789abcdef";
        const char *at = digits[i] == '\0' ? NULL : strchr(all, digits[i]);
        if (at == NULL)
            return ERR_MALFORMED;
        *life = *life << 4 | (uint64_t)(at - all);
    }
    return digits[LIFE_DIGITS] == '\0' && *life != 0 ? 0 : ERR_MALFORMED;
}

/* What this version does not understand is for a later one. */
static int item_read(const char *item, struct greeting *greeting)
{
    struct config_url url;
    char reason[CONFIG_TEXT_BYTES];
    if (strncmp(item, LIFE_PREFIX, strlen(LIFE_PREFIX)) == 0)
        return greeting->life != 0 ? ERR_MALFORMED
                                   : life_read(item + strlen(LIFE_PREFIX), &greeting->life);
    if (greeting->address_count == PEER_ADDRESSES_MAX ||
        config_url_parse(&url, item, reason, sizeof(reason)) < 0)
        return 0;
    struct peer_address *address = &greeting->addresses[greeting->address_count++];
    address->port = url.port;
    snprintf(address->host, sizeof(address->host), "%s", url.host);
    return 0;
}

int greeting_read(struct bytes text, struct greeting *greeting)
{
    char copy[GREETING_BYTES_MAX];
    int error = 0;
    memset(greeting, 0, sizeof(*greeting));
    if (text.size == 0 || text.size >= sizeof(copy) ||
        (text.data[0] != FLAG_FRESH && text.data[0] != FLAG_KNOWN) ||
        memchr(text.data, '\0', text.size) != NULL)
        return ERR_MALFORMED;
    greeting->fresh = text.data[0] == FLAG_FRESH;
    memcpy(copy, text.data + 1, text.size - 1);
    copy[text.size - 1] = '\0';
    for (char *at = copy; *at != '\0' && error == 0;) {
        char *comma = strchrnul(at, ','), *next = *comma == ',' ? comma + 1 : comma;
        *comma = '\0';
        error = item_read(at, greeting);
        at = next;
    }
    return error;
}

/* ---- the rule ------------------------------------------------------------------------------- */

enum life_state admission_life(const struct membership *membership, uint64_t id, uint64_t life)
{
    const struct member *member = member_find(&membership->set, id);
    if (member == NULL || member->life == 0)
        return LIFE_UNTOLD;
    return member->life == life ? LIFE_NAMED : LIFE_REPLACED;
}

bool admission_may_vote(const struct admission *admission, uint64_t life, bool welcomed)
{
    switch (admission_life(admission->membership, admission->self, life)) {
    case LIFE_NAMED:
        return true;
    case LIFE_UNTOLD:
        return welcomed;
    case LIFE_REPLACED:
        break; /* it is about to stop */
    }
    return false;
}

static void trust(struct admission *admission, uint64_t id, uint64_t life)
{
    uint32_t to = PEERS_MAX;
    for (uint32_t i = 0; i < PEERS_MAX; i++) {
        if (admission->trusted[i].id == id) { /* A1 */
            to = i;
            break;
        }
        if (admission->trusted[i].id == 0 && to == PEERS_MAX)
            to = i;
    }
    if (to == PEERS_MAX)
        to = admission->trusted_next++ % PEERS_MAX;
    admission->trusted[to].id = id;
    admission->trusted[to].life = life;
}

/* One whose addition is not applied here is let in: Raft tells what its messages are worth. Of one
 * that was named by a version without lives, an empty log is all that gives it away. */
static int decide_untold(const struct membership *membership, uint64_t id,
                         const struct greeting *greeting, bool caught_up)
{
    const struct member *member = member_find(&membership->set, id);
    if (!greeting->fresh)
        return 0;
    if (member != NULL && member->name[0] != '\0')
        return ERR_MEMBER_BOOTSTRAPPED;
    return caught_up ? 0 : ERR_UNAVAILABLE;
}

int admission_decide(struct admission *admission, uint64_t id, const struct greeting *greeting,
                     bool caught_up)
{
    const struct membership *membership = admission->membership;
    if (membership_is_removed(membership, id))
        return ERR_MEMBER_REMOVED;
    if (id == admission->self)
        return ERR_MEMBER_EXISTS;
    switch (admission_life(membership, id, greeting->life)) {
    case LIFE_NAMED:
        return 0;
    case LIFE_REPLACED:
        return ERR_MEMBER_BOOTSTRAPPED;
    case LIFE_UNTOLD:
        break;
    }
    int error = decide_untold(membership, id, greeting, caught_up);
    if (error == 0)
        trust(admission, id, greeting->life);
    return error;
}

uint64_t admission_expose(struct admission *admission)
{
    for (uint32_t i = 0; i < PEERS_MAX; i++) {
        uint64_t id = admission->trusted[i].id;
        if (id == 0)
            continue;
        enum life_state state =
            admission_life(admission->membership, id, admission->trusted[i].life);
        if (state != LIFE_UNTOLD || membership_is_removed(admission->membership, id))
            admission->trusted[i].id = 0;
        if (state == LIFE_REPLACED)
            return id;
    }
    return 0;
}
