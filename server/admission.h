/*
 * admission.h - which members may connect: what a greeting tells, and the rule that judges it.
 *
 * Story     A data directory draws a random life id when it is made (server/identity.h). Every
 *           greeting carries it, and a member tells it of itself through the log, with its name. An
 *           emptied directory has another life: it forgot what it voted for and acknowledged, and
 *           must not take part under its old id. So a greeting is refused when the log names that
 *           member with another life, whatever else it says, and however old it is.
 *           A member that our log does not name yet is let in on trust: it may be starting for the
 *           first time. When the log names it after all, and otherwise, it was no such member.
 * Invariants
 *   A1  an id stands at most once among those let in on trust.
 * Owner     struct peer_role; the members are borrowed.
 * Threads   The raft core.
 * Errors    ERR_MEMBER_REMOVED, ERR_MEMBER_BOOTSTRAPPED: for good; ERR_MEMBER_EXISTS: our own id;
 *           ERR_UNAVAILABLE: later; ERR_MALFORMED.
 * Limits    PEERS_MAX let in on trust; the oldest is forgotten for one more.
 * Source    docs/formats/peer-frame.md, docs/internals/raft.md.
 */
#ifndef SERVER_ADMISSION_H
#define SERVER_ADMISSION_H

#include "server/members.h"

struct membership;

#define GREETING_BYTES_MAX (PEER_HELLO_BYTES_MAX - 64)

struct greeting {
    bool fresh;    /* its log was empty when it wrote this */
    uint64_t life; /* 0: of a version without */
    uint32_t address_count;
    struct peer_address addresses[PEER_ADDRESSES_MAX];
};

/* Our own, as text with its end; fresh until told otherwise. */
void greeting_write(char text[GREETING_BYTES_MAX], uint64_t life, const struct config_urls *urls);
void greeting_set_fresh(char text[GREETING_BYTES_MAX], bool fresh);
must_check int greeting_read(struct bytes text, struct greeting *greeting);

struct admission {
    const struct membership *membership;
    uint64_t self;
    struct {
        uint64_t id, life; /* id 0: free */
    } trusted[PEERS_MAX];
    uint32_t trusted_next; /* overwritten next when none is free */
};

/* `caught_up`: this member has applied what it knew to be committed at its start; until then it
 * cannot tell a member that starts for the first time from one that it knew. */
must_check int admission_decide(struct admission *admission, uint64_t id,
                                const struct greeting *greeting, bool caught_up);

/* After the members changed, until it returns 0: one that was let in on trust and is not who it
 * said. Its connections must go; the next greeting is refused. */
uint64_t admission_expose(struct admission *admission);

enum life_state {
    LIFE_UNTOLD,   /* the member is not known, or of no life yet */
    LIFE_NAMED,    /* of this one */
    LIFE_REPLACED, /* of another one */
};
enum life_state admission_life(const struct membership *membership, uint64_t id, uint64_t life);

/* May this member, of `life`, answer a candidate that has `welcomed` it, or not (yet)? Until it
 * finds its own life in its log its directory may be one that was emptied, also when it was fed
 * since, and the member may have voted before: only who looked it up and let it in can tell. */
bool admission_may_vote(const struct admission *admission, uint64_t life, bool welcomed);

#endif
