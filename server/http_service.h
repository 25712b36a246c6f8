/*
 * http_service.h - the HTTP/1.1 paths of a client port: /version, /health, /livez, /readyz,
 * /metrics.
 *
 * Story     /health and the linearizable part of /readyz wait for what a client's linearizable read
 *           waits for: an index from the leader, applied here. They fail after the request timeout.
 * Owner     The connection core.
 * Source    server/etcdserver/api/etcdhttp of etcd; docs/operations/metrics.md.
 */
#ifndef SERVER_HTTP_SERVICE_H
#define SERVER_HTTP_SERVICE_H

#include "net/rpc.h"

void http_service_handle(struct http_request *request);

#endif
