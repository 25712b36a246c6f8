/*
 * message.h - the kinds of messages between the cores of a node (core/mesh.h).
 *
 * Each kind names its words. A pointer changes owner with the message; who frees it stands beside
 * it.
 */
#ifndef SERVER_MESSAGE_H
#define SERVER_MESSAGE_H

enum message_kind {
    MESSAGE_CALL = 1,        /* word[0]: struct remote_job, the caller's                        */
    MESSAGE_CALL_DONE,       /* the same job, back                                              */
    MESSAGE_PROPOSE,         /* word[0]: struct proposal, to the raft core                      */
    MESSAGE_PROPOSED,        /* the same proposal, home with its result                         */
    MESSAGE_READ_INDEX,      /* word[0]: batch number of the asking core                        */
    MESSAGE_READ_INDEX_DONE, /* word[0]: this batch, all before it; word[1]: error, 0 = go on   */
    MESSAGE_LOG_APPEND,      /* word[0]: struct log_batch, to the log core                      */
    MESSAGE_LOG_DURABLE,     /* the same batch, back; in log order                              */
    MESSAGE_LOG_RELEASE,     /* word[0]: index; everything at or below is in flushed tables     */
    MESSAGE_LOG_REPAIR,      /* word[0]: struct log_repair, to the log core                     */
    MESSAGE_LOG_REPAIRED,    /* the same, back: the copies are durable                          */
    MESSAGE_SOCKET,          /* word[0]: descriptor, its core takes it over; word[1]: rpc_port  */
    MESSAGE_LSM_FIRST,       /* MESSAGE_LSM_COUNT kinds of storage/lsm                           */
    MESSAGE_LSM_COUNT = 12,
    MESSAGE_KIND_COUNT = MESSAGE_LSM_FIRST + MESSAGE_LSM_COUNT
};

#endif
