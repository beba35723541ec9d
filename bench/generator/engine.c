/* The load generator's engine: many Socket.IO connections over WebSocket on one epoll loop.
 *
 * It speaks just enough of the protocols to be exact about what it counts: HTTP upgrade (RFC 6455), Engine.IO v4 text
 * packets, Socket.IO v5 CONNECT, EVENT and ACK in the default namespace, no extension negotiated. Every WebSocket frame
 * is walked by its header, so a count does not depend on how TCP cuts the stream. What it does not expect (a masked,
 * fragmented or binary frame, an answer to nothing, a server that closes) is an error that ends the run, never a guess.
 *
 * Senders keep a fixed number of actions in flight: an acknowledgement sends the next. The content of each message
 * begins with the time of sending, the slot (which sender to which room) and its count in that slot, all in hex; on
 * sampled connections these give the latency, and show that each slot's messages came once and in order.
 *
 * Each connection has its port: connections to several nodes, on a port each, share rooms. The latency is also kept
 * apart for messages whose receiver and sender are on one node, and on different ones.
 *
 * One thread; the caller drives it with engine_run(). Times are CLOCK_MONOTONIC nanoseconds.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { READ_SIZE = 1 << 20, EVENTS = 256, STAMP = 32 };
enum { SUB_BITS = 7, BUCKETS = (64 - SUB_BITS + 1) << SUB_BITS }; /* a histogram's buckets are within 1 % */
enum state { WAITING, CONNECTING, UPGRADING, OPENING, READY, CLOSED };

/* The sample of RFC 6455, section 1.3. */
static const char UPGRADE[] = "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\n"
                              "Host: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                              "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
static const char ACCEPT[] = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
static const uint8_t MASK[4] = {0x5a, 0xc3, 0x17, 0xe9};

struct buffer {
    uint8_t *data;
    size_t used, size;
};

struct flight {
    uint64_t sent;
    uint32_t id;
    int32_t slot; /* -1: nothing in flight here */
};

struct slot { /* what a sender says to one room */
    char *before, *after;
    size_t before_length, after_length, content; /* content 0: the action is before + after, as it is */
    uint64_t sent, acked;
    int sender;
};

struct conn {
    int fd, port;
    uint8_t state, watching_output, dirty;
    struct buffer in, out;
    char *auth;
    uint64_t started, connected, ready, received;
    uint32_t *last; /* only of a sampled connection: slot -> count of its last message */
    /* a sender's */
    uint32_t window, mask, next_id, in_flight;
    int first_slot, slots, turn;
    struct flight *flights;
};

struct counters { /* mirrored in engine.py */
    uint64_t messages, bytes, reads, acks, refused, heartbeats, events, opened, in_flight;
};

struct engine {
    int epoll, failed, sending, recording;
    struct conn *conns;
    int count, room, opening;
    int next_to_open;
    struct slot *slots;
    int slot_count;
    int *dirty;
    int dirty_count;
    struct counters counters;
    uint64_t latency[BUCKETS], ack[BUCKETS], near[BUCKETS], far[BUCKETS]; /* near + far: latency */
    uint8_t *read_buffer;
    char error[512], refusal[512];
};

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void fail(struct engine *e, const char *format, ...) {
    if (e->failed) return;
    e->failed = 1;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(e->error, sizeof e->error, format, arguments);
    va_end(arguments);
}

static void record(uint64_t *histogram, uint64_t value) {
    int bucket;
    if (value < (1u << SUB_BITS)) {
        bucket = (int)value;
    } else {
        int shift = 63 - __builtin_clzll(value) - SUB_BITS;
        bucket = ((shift + 1) << SUB_BITS) + (int)((value >> shift) - (1u << SUB_BITS));
    }
    histogram[bucket]++;
}

static void put(struct buffer *b, const void *data, size_t length) {
    if (b->used + length > b->size) {
        size_t size = b->size ? b->size : 512;
        while (size < b->used + length) size *= 2;
        b->data = realloc(b->data, size);
        if (!b->data) abort();
        b->size = size;
    }
    if (length) memcpy(b->data + b->used, data, length);
    b->used += length;
}

/* -- writing ------------------------------------------------------------------------------------------------------ */

static void will_write(struct engine *e, struct conn *c) {
    if (!c->dirty) {
        c->dirty = 1;
        e->dirty[e->dirty_count++] = (int)(c - e->conns);
    }
}

/* A masked frame; its payload is to be appended with put() and masked with seal(). */
static size_t begin_frame(struct conn *c, uint8_t opcode, size_t length) {
    uint8_t head[14];
    size_t size = 2;
    head[0] = 0x80 | opcode;
    if (length < 126) {
        head[1] = 0x80 | (uint8_t)length;
    } else if (length < 65536) {
        head[1] = 0x80 | 126;
        head[2] = (uint8_t)(length >> 8);
        head[3] = (uint8_t)length;
        size = 4;
    } else {
        head[1] = 0x80 | 127;
        for (int i = 0; i < 8; i++) head[2 + i] = (uint8_t)((uint64_t)length >> (56 - 8 * i));
        size = 10;
    }
    memcpy(head + size, MASK, 4);
    put(&c->out, head, size + 4);
    return c->out.used;
}

static void seal(struct conn *c, size_t start) {
    for (size_t i = start; i < c->out.used; i++) c->out.data[i] ^= MASK[(i - start) & 3];
}

static void send_frame(struct engine *e, struct conn *c, uint8_t opcode, const void *data, size_t length) {
    size_t start = begin_frame(c, opcode, length);
    put(&c->out, data, length);
    seal(c, start);
    will_write(e, c);
}

static void watch(struct engine *e, struct conn *c, int output) {
    struct epoll_event event = {.events = EPOLLIN | (output ? EPOLLOUT : 0), .data.u32 = (uint32_t)(c - e->conns)};
    if (epoll_ctl(e->epoll, EPOLL_CTL_MOD, c->fd, &event)) fail(e, "epoll: %s", strerror(errno));
    c->watching_output = (uint8_t)output;
}

static void flush(struct engine *e, struct conn *c) {
    c->dirty = 0;
    if (c->state == CLOSED || c->state == CONNECTING || c->state == WAITING) return;
    size_t done = 0;
    while (done < c->out.used) {
        ssize_t n = send(c->fd, c->out.data + done, c->out.used - done, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EINTR) continue;
            if (errno == EAGAIN) break;
            fail(e, "connection %d: write: %s", (int)(c - e->conns), strerror(errno));
            return;
        }
        done += (size_t)n;
    }
    if (done) {
        memmove(c->out.data, c->out.data + done, c->out.used - done);
        c->out.used -= done;
    }
    if ((c->out.used > 0) != c->watching_output) watch(e, c, c->out.used > 0);
}

static void flush_all(struct engine *e) {
    for (int i = 0; i < e->dirty_count; i++) flush(e, &e->conns[e->dirty[i]]);
    e->dirty_count = 0;
}

/* -- sending ------------------------------------------------------------------------------------------------------ */

static void send_next(struct engine *e, struct conn *c) {
    static const char HEX[] = "0123456789abcdef";
    int at = c->first_slot + c->turn;
    struct slot *s = &e->slots[at];
    c->turn = (c->turn + 1) % c->slots;
    uint32_t id = c->next_id++;
    uint64_t now = now_ns();
    struct flight *f = &c->flights[id & c->mask];
    if (f->slot >= 0) {
        fail(e, "connection %d: too many in flight", (int)(c - e->conns));
        return;
    }
    *f = (struct flight){now, id, at};
    char head[24], stamp[STAMP];
    int head_length = snprintf(head, sizeof head, "42%u", id);
    s->sent++;
    size_t start = begin_frame(c, 1, (size_t)head_length + s->before_length + s->content + s->after_length);
    put(&c->out, head, (size_t)head_length);
    put(&c->out, s->before, s->before_length);
    if (s->content) {
        for (int i = 0; i < 16; i++) stamp[i] = HEX[now >> (60 - 4 * i) & 15];
        for (int i = 0; i < 8; i++) stamp[16 + i] = HEX[(uint32_t)at >> (28 - 4 * i) & 15];
        for (int i = 0; i < 8; i++) stamp[24 + i] = HEX[s->sent >> (28 - 4 * i) & 15];
        put(&c->out, stamp, STAMP);
        static const char FILL[64] = {[0 ... 63] = 'x'};
        for (size_t left = s->content - STAMP; left;) {
            size_t n = left < sizeof FILL ? left : sizeof FILL;
            put(&c->out, FILL, n);
            left -= n;
        }
    }
    put(&c->out, s->after, s->after_length);
    seal(c, start);
    c->in_flight++;
    e->counters.in_flight++;
    will_write(e, c);
}

static void fill_window(struct engine *e, struct conn *c) {
    while (e->sending && !e->failed && c->window && c->in_flight < c->window) send_next(e, c);
}

/* -- receiving ---------------------------------------------------------------------------------------------------- */

static int starts(const uint8_t *data, size_t length, const char *with) {
    size_t n = strlen(with);
    return length >= n && !memcmp(data, with, n);
}

static int hex(const uint8_t *data, int digits, uint64_t *value) {
    *value = 0;
    for (int i = 0; i < digits; i++) {
        uint8_t c = data[i];
        int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        if (digit < 0) return 0;
        *value = *value << 4 | (uint64_t)digit;
    }
    return 1;
}

static void look_into(struct engine *e, struct conn *c, const uint8_t *data, size_t length, uint64_t now) {
    static const char KEY[] = "\"content\":\"";
    const uint8_t *at = memmem(data, length, KEY, sizeof KEY - 1);
    uint64_t sent, slot, count;
    if (!at) {
        fail(e, "a message without content: %.*s", (int)(length < 200 ? length : 200), (const char *)data);
        return;
    }
    at += sizeof KEY - 1;
    if ((size_t)(data + length - at) < STAMP || !hex(at, 16, &sent) || !hex(at + 16, 8, &slot) ||
        !hex(at + 24, 8, &count) || slot >= (uint64_t)e->slot_count || sent > now) {
        fail(e, "a message that was not sent here: %.*s", (int)(length < 200 ? length : 200), (const char *)data);
        return;
    }
    if (count != (uint64_t)c->last[slot] + 1) {
        fail(e, "connection %d, slot %d: message %u came after %u", (int)(c - e->conns), (int)slot, (unsigned)count,
             (unsigned)c->last[slot]);
        return;
    }
    c->last[slot] = (uint32_t)count;
    if (e->recording) {
        record(e->latency, now - sent);
        record(e->conns[e->slots[slot].sender].port == c->port ? e->near : e->far, now - sent);
    }
}

static void acknowledged(struct engine *e, struct conn *c, const uint8_t *data, size_t length, uint64_t now) {
    uint64_t id = 0;
    size_t at = 2;
    while (at < length && at < 12 && data[at] >= '0' && data[at] <= '9') id = id * 10 + (uint64_t)(data[at++] - '0');
    struct flight *f = c->flights ? &c->flights[id & c->mask] : NULL;
    if (at == 2 || !f || f->slot < 0 || f->id != id) {
        fail(e, "connection %d: an acknowledgement of nothing: %.*s", (int)(c - e->conns),
             (int)(length < 100 ? length : 100), (const char *)data);
        return;
    }
    if (starts(data + at, length - at, "[{\"ok\":true")) {
        e->counters.acks++;
        e->slots[f->slot].acked++;
    } else {
        if (!e->counters.refused++)
            snprintf(e->refusal, sizeof e->refusal, "%.*s", (int)(length < 500 ? length : 500), (const char *)data);
    }
    if (e->recording) record(e->ack, now - f->sent);
    f->slot = -1;
    c->in_flight--;
    e->counters.in_flight--;
    if (e->sending && !e->failed) fill_window(e, c);
}

static void packet(struct engine *e, struct conn *c, const uint8_t *data, size_t length, uint64_t now) {
    int at = (int)(c - e->conns), shown = (int)(length < 300 ? length : 300);
    if (starts(data, length, "42[\"message\",") || starts(data, length, "42[\"published\",")) {
        c->received++;
        e->counters.messages++;
        if (c->last) look_into(e, c, data, length, now);
    } else if (starts(data, length, "43")) {
        acknowledged(e, c, data, length, now);
    } else if (length == 1 && data[0] == '2') {
        e->counters.heartbeats++;
        send_frame(e, c, 1, "3", 1);
    } else if (starts(data, length, "42[\"ready\"")) {
        if (c->state != OPENING) {
            fail(e, "connection %d: ready twice", at);
            return;
        }
        c->state = READY;
        c->ready = now;
        e->opening--;
        e->counters.opened++;
    } else if (starts(data, length, "42[\"")) {
        e->counters.events++;
    } else if (starts(data, length, "40")) {
        c->connected = now;
    } else if (starts(data, length, "0{")) {
        send_frame(e, c, 1, c->auth, strlen(c->auth));
    } else {
        fail(e, "connection %d: unexpected packet: %.*s", at, shown, (const char *)data);
    }
}

static void frames(struct engine *e, struct conn *c, const uint8_t *p, const uint8_t *end, uint64_t now) {
    while (!e->failed && end - p >= 2) {
        uint64_t length = p[1] & 0x7f;
        int head = length == 127 ? 10 : length == 126 ? 4 : 2;
        if (p[1] & 0x80) {
            fail(e, "a masked frame from the server");
            return;
        }
        if (end - p < head) break;
        if (head > 2) {
            length = 0;
            for (int i = 2; i < head; i++) length = length << 8 | p[i];
        }
        if (length > (64u << 20)) {
            fail(e, "a frame of %llu bytes", (unsigned long long)length);
            return;
        }
        if ((uint64_t)(end - p) < (uint64_t)head + length) break;
        const uint8_t *payload = p + head;
        if (p[0] == 0x81) {
            packet(e, c, payload, (size_t)length, now);
        } else if (p[0] == 0x89) {
            send_frame(e, c, 10, payload, (size_t)length);
        } else if (p[0] != 0x8a) {
            fail(e, "connection %d: frame %02x where a whole text frame is due: %.*s", (int)(c - e->conns), p[0],
                 (int)(length < 200 ? length : 200), (const char *)payload);
            return;
        }
        p += (uint64_t)head + length;
    }
    if (p < end && !e->failed) put(&c->in, p, (size_t)(end - p));
}

static void readable(struct engine *e, struct conn *c) {
    uint8_t *start = e->read_buffer;
    ssize_t n;
    do n = recv(c->fd, start, READ_SIZE, 0);
    while (n < 0 && errno == EINTR);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
        fail(e, "connection %d: %s", (int)(c - e->conns), n ? strerror(errno) : "closed by the server");
        return;
    }
    uint64_t now = now_ns();
    e->counters.reads++;
    e->counters.bytes += (uint64_t)n;
    const uint8_t *p = start, *end = start + n;
    uint8_t *joined = NULL;
    if (c->in.used) { /* the rest of last time comes first */
        put(&c->in, start, (size_t)n);
        joined = c->in.data;
        p = joined;
        end = joined + c->in.used;
        c->in = (struct buffer){0};
    }
    if (c->state == UPGRADING) {
        const uint8_t *body = memmem(p, (size_t)(end - p), "\r\n\r\n", 4);
        if (!body) {
            put(&c->in, p, (size_t)(end - p));
            free(joined);
            return;
        }
        if (!starts(p, (size_t)(end - p), "HTTP/1.1 101") || !memmem(p, (size_t)(body - p), ACCEPT, sizeof ACCEPT - 1)) {
            fail(e, "no upgrade: %.*s", (int)(end - p < 300 ? end - p : 300), (const char *)p);
            free(joined);
            return;
        }
        c->state = OPENING;
        p = body + 4;
    }
    frames(e, c, p, end, now);
    free(joined);
}

static void open_next(struct engine *e) {
    struct conn *c = &e->conns[e->next_to_open++];
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)c->port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int on = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) {
        fail(e, "socket: %s", strerror(errno));
        return;
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    c->started = now_ns();
    c->state = CONNECTING;
    e->opening++;
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS) {
        fail(e, "connect: %s", strerror(errno));
        return;
    }
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.u32 = (uint32_t)(c - e->conns)};
    c->watching_output = 1;
    if (epoll_ctl(e->epoll, EPOLL_CTL_ADD, c->fd, &event)) fail(e, "epoll: %s", strerror(errno));
}

static void handle(struct engine *e, struct conn *c, uint32_t events) {
    if (c->state == CLOSED) return;
    if (c->state == CONNECTING) {
        int problem = 0;
        socklen_t size = sizeof problem;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &problem, &size);
        if (problem) {
            fail(e, "connect: %s", strerror(problem));
            return;
        }
        if (!(events & EPOLLOUT)) return;
        c->state = UPGRADING;
        put(&c->out, UPGRADE, sizeof UPGRADE - 1);
        will_write(e, c);
        return;
    }
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(e, c);
    if (events & EPOLLOUT) will_write(e, c);
}

/* One turn of the loop, waiting for at most so many milliseconds. */
static void turn(struct engine *e, int wait_ms) {
    struct epoll_event events[EVENTS];
    int n = epoll_wait(e->epoll, events, EVENTS, wait_ms);
    if (n < 0 && errno != EINTR) fail(e, "epoll: %s", strerror(errno));
    for (int i = 0; i < n && !e->failed; i++) handle(e, &e->conns[events[i].data.u32], events[i].events);
    flush_all(e);
}

/* -- the interface ------------------------------------------------------------------------------------------------ */

struct engine *engine_new(void) {
    struct engine *e = calloc(1, sizeof *e);
    if (!e) return NULL;
    e->epoll = epoll_create1(EPOLL_CLOEXEC);
    e->read_buffer = malloc(READ_SIZE);
    if (e->epoll < 0 || !e->read_buffer) return NULL;
    return e;
}

/* A connection to be opened to a port; `auth` is its Socket.IO CONNECT in an Engine.IO message ("40{…}").
 * Returns its number. */
int engine_add(struct engine *e, int port, const char *auth) {
    if (e->count == e->room) {
        e->room = e->room ? e->room * 2 : 64;
        e->conns = realloc(e->conns, (size_t)e->room * sizeof *e->conns);
        e->dirty = realloc(e->dirty, (size_t)e->room * sizeof *e->dirty);
        if (!e->conns || !e->dirty) abort();
    }
    e->conns[e->count] = (struct conn){.fd = -1, .port = port, .auth = strdup(auth)};
    return e->count++;
}

/* Open every connection that is not yet, so many at a time, until each is ready. Returns 0, or -1: see the error. */
int engine_open(struct engine *e, int at_once, double timeout_s) {
    uint64_t until = now_ns() + (uint64_t)(timeout_s * 1e9);
    while (!e->failed && (e->next_to_open < e->count || e->opening)) {
        while (!e->failed && e->next_to_open < e->count && e->opening < at_once) open_next(e);
        turn(e, 20);
        if (now_ns() > until) fail(e, "%d of %d connections are ready in time", (int)e->counters.opened, e->count);
    }
    return e->failed ? -1 : 0;
}

void engine_close(struct engine *e, int conn) {
    struct conn *c = &e->conns[conn];
    if (c->fd >= 0) close(c->fd);
    e->counters.in_flight -= c->in_flight;
    c->in_flight = c->window = 0;
    c->fd = -1;
    c->state = CLOSED;
}

/* Let a connection send: `slots` calls of engine_slot() follow, which it serves in turn. */
int engine_sender(struct engine *e, int conn, int window) {
    struct conn *c = &e->conns[conn];
    uint32_t size = 1;
    while (size < (uint32_t)window * 2) size *= 2;
    if (c->flights) {
        fail(e, "connection %d sends already", conn);
        return -1;
    }
    c->flights = malloc(size * sizeof *c->flights);
    if (!c->flights) abort();
    for (uint32_t i = 0; i < size; i++) c->flights[i].slot = -1;
    c->mask = size - 1;
    c->window = (uint32_t)window;
    c->first_slot = e->slot_count;
    return 0;
}

/* What the sender sends: ["action",{… `before` content `after`. Returns the slot's number. */
int engine_slot(struct engine *e, int conn, const char *before, const char *after, int content) {
    e->slots = realloc(e->slots, (size_t)(e->slot_count + 1) * sizeof *e->slots);
    if (!e->slots) abort();
    e->slots[e->slot_count] =
        (struct slot){strdup(before), strdup(after), strlen(before), strlen(after), (size_t)content, 0, 0, conn};
    e->conns[conn].slots++;
    return e->slot_count++;
}

/* Change how much a sender has in flight; 0: it says nothing more. */
void engine_window(struct engine *e, int conn, int window) {
    struct conn *c = &e->conns[conn];
    if ((uint32_t)window * 2 > c->mask + 1) fail(e, "connection %d: a window wider than it began with", conn);
    else c->window = (uint32_t)window;
}

/* Look into every message that the connection gets; after the slots are known, before the first is sent. */
void engine_sample(struct engine *e, int conn) {
    struct conn *c = &e->conns[conn];
    free(c->last);
    c->last = calloc((size_t)e->slot_count + 1, sizeof *c->last);
    if (!c->last) abort();
}

void engine_sending(struct engine *e, int on) {
    e->sending = on;
    if (on)
        for (int i = 0; i < e->count; i++) fill_window(e, &e->conns[i]);
    flush_all(e);
}

void engine_recording(struct engine *e, int on) {
    e->recording = on;
    if (on) {
        memset(e->latency, 0, sizeof e->latency);
        memset(e->ack, 0, sizeof e->ack);
        memset(e->near, 0, sizeof e->near);
        memset(e->far, 0, sizeof e->far);
    }
}

/* Run for so long. Returns 0, or -1: see the error. */
int engine_run(struct engine *e, double seconds) {
    uint64_t until = now_ns() + (uint64_t)(seconds * 1e9);
    for (uint64_t now = now_ns(); !e->failed && now < until; now = now_ns())
        turn(e, (int)((until - now + 999999) / 1000000));
    return e->failed ? -1 : 0;
}

const struct counters *engine_counters(struct engine *e) { return &e->counters; }
const char *engine_error(struct engine *e) { return e->error; }
const char *engine_refusal(struct engine *e) { return e->refusal; }
uint64_t engine_received(struct engine *e, int conn) { return e->conns[conn].received; }
uint64_t engine_acked(struct engine *e, int slot) { return e->slots[slot].acked; }
/* From the start of the TCP connection to `ready`. */
uint64_t engine_opened_in(struct engine *e, int conn) { return e->conns[conn].ready - e->conns[conn].started; }

/* The value below which a share of the recorded latencies lies, in ns; 0 if there are none.
 * `what` 0: delivery, 1: acknowledgement, 2: delivery on the sender's node, 3: delivery on another node. */
double engine_quantile(struct engine *e, int what, double share) {
    const uint64_t *histogram = what == 0 ? e->latency : what == 1 ? e->ack : what == 2 ? e->near : e->far;
    uint64_t total = 0, seen = 0;
    for (int i = 0; i < BUCKETS; i++) total += histogram[i];
    for (int i = 0; i < BUCKETS && total; i++) {
        seen += histogram[i];
        if ((double)seen >= share * (double)total) {
            int shift = (i >> SUB_BITS) - 1;
            if (shift < 0) return (double)i;
            double low = (double)((uint64_t)((i & ((1 << SUB_BITS) - 1)) + (1 << SUB_BITS)) << shift);
            return low + (double)(1ull << shift) / 2;
        }
    }
    return 0;
}

void engine_free(struct engine *e) {
    for (int i = 0; i < e->count; i++) {
        struct conn *c = &e->conns[i];
        if (c->fd >= 0) close(c->fd);
        free(c->in.data);
        free(c->out.data);
        free(c->auth);
        free(c->last);
        free(c->flights);
    }
    for (int i = 0; i < e->slot_count; i++) {
        free(e->slots[i].before);
        free(e->slots[i].after);
    }
    close(e->epoll);
    free(e->slots);
    free(e->conns);
    free(e->dirty);
    free(e->read_buffer);
    free(e);
}
