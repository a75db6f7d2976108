/* The counting client: sends one request again and again on each of some connections, exactly as often as told,
 * and reads plain and streamed answers to their very end.
 *
 *     load PORT CONNECTIONS REQUESTS REQUEST_FILE [SPREAD_US]
 *
 * REQUEST_FILE holds the request's bytes, head and body. REQUESTS 0: until told to stop. SPREAD_US: the time
 * between the first requests of two connections. Each line on standard input, and the end, prints one line of
 * JSON: how many answers were complete, events ("\n\n") and bytes read, answers other than 200, connections that
 * broke inside an answer, the longest time without any answer, latencies. The line "stop" (or end of input
 * while REQUESTS is 0) ends it.
 */
#include "net.h"

#include <sys/timerfd.h>

enum { EVENTS = 256, BUFFER = 64 * 1024, HEAD = 16 * 1024, MAX_TIMES = 8 << 20 };
enum { IN_HEAD, BY_LENGTH, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILER, UNTIL_CLOSE };

typedef struct {
    int fd, state, is_writing, is_sent, has_newline, has_digits, has_read, is_refused;
    size_t sent, head_size, left, line;
    uint64_t began;
    char head[HEAD];
} conn_t;

static int epoll, port;
static char *request;
static size_t request_size;
static long wanted, begun;
static uint64_t answers, other, broken, events_seen, bytes, started_at, last_answer, longest_gap, connects;
static uint32_t *times; /* ns of each answer, as far as they fit 32 bits: 4 s; longer ones are cut */
static uint64_t slowest;
static long times_count;
static int busy;
static char buffer[BUFFER];

static void send_request(conn_t *conn);

static int by_size(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static double percentile_us(double share) {
    return times_count ? times[(long)((double)(times_count - 1) * share)] / 1000.0 : 0;
}

static void tell(int is_end) {
    uint64_t now = now_ns(), gap = longest_gap;
    if (last_answer && now - last_answer > gap && !is_end) gap = now - last_answer;
    if (is_end) qsort(times, (size_t)times_count, sizeof *times, by_size);
    printf("{\"seconds\": %.6f, \"answers\": %llu, \"events\": %llu, \"bytes\": %llu, \"other\": %llu, \"broken\": %llu, "
           "\"connects\": %llu, \"longest_gap_ms\": %.3f, \"slowest_ms\": %.3f",
           (double)(now - started_at) / 1e9, (unsigned long long)answers, (unsigned long long)events_seen,
           (unsigned long long)bytes, (unsigned long long)other, (unsigned long long)broken,
           (unsigned long long)connects, (double)gap / 1e6, (double)slowest / 1e6);
    if (is_end)
        printf(", \"p50_us\": %.2f, \"p90_us\": %.2f, \"p99_us\": %.2f", percentile_us(0.5), percentile_us(0.9),
               percentile_us(0.99));
    printf("}\n");
    fflush(stdout);
}

static void open_connection(conn_t *conn) {
    conn->fd = begin_connect(port);
    if (conn->fd < 0) die("connect");
    connects++;
    conn->is_writing = 1;
    conn->has_read = 0;
    watch(epoll, EPOLL_CTL_ADD, conn->fd, EPOLLIN | EPOLLOUT, conn);
}

static void close_connection(conn_t *conn) {
    close(conn->fd);
    conn->fd = -1;
}

static void begin_request(conn_t *conn) {
    if (wanted && begun >= wanted) {
        if (conn->fd >= 0) close_connection(conn);
        busy--;
        return;
    }
    begun++;
    conn->state = IN_HEAD;
    conn->head_size = conn->sent = 0;
    conn->has_newline = 0;
    conn->is_sent = 0;
    conn->began = now_ns();
    if (conn->fd < 0)
        open_connection(conn); /* sent when it stands */
    else
        send_request(conn);
}

static void end_answer(conn_t *conn) {
    uint64_t now = now_ns(), took = now - conn->began;
    if (times_count < MAX_TIMES) times[times_count++] = took > UINT32_MAX ? UINT32_MAX : (uint32_t)took;
    if (took > slowest) slowest = took;
    if (last_answer && now - last_answer > longest_gap) longest_gap = now - last_answer;
    last_answer = now;
    answers++;
    begin_request(conn);
}

static void break_off(conn_t *conn) {
    close_connection(conn);
    if (conn->state == IN_HEAD && conn->head_size == 0 && conn->has_read && begun) {
        begun--; /* closed while idle, as keep-alive may be: the request is sent anew */
        begin_request(conn);
        return;
    }
    broken++;
    if (answers == 0 && broken > 1000) {
        fprintf(stderr, "load: no answer\n");
        exit(1);
    }
    begin_request(conn);
}

static void send_request(conn_t *conn) {
    while (conn->sent < request_size) {
        ssize_t sent = send(conn->fd, request + conn->sent, request_size - conn->sent, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) {
            if (!conn->is_writing) watch(epoll, EPOLL_CTL_MOD, conn->fd, EPOLLIN | EPOLLOUT, conn);
            conn->is_writing = 1;
            return;
        }
        if (sent < 0) return; /* what it answered before it closed may still be read */
        conn->sent += (size_t)sent;
    }
    if (conn->is_writing) watch(epoll, EPOLL_CTL_MOD, conn->fd, EPOLLIN, conn);
    conn->is_writing = 0;
}

/* Reads the head's end out of what has come; how many bytes of it belong to the head. */
static size_t take_head(conn_t *conn, const char *data, size_t size, int *is_whole) {
    size_t before = conn->head_size, room = HEAD - 1 - before, take = size < room ? size : room;
    char *end, *value;
    memcpy(conn->head + before, data, take);
    conn->head_size += take;
    conn->head[conn->head_size] = 0;
    end = strstr(conn->head, "\r\n\r\n");
    if (!end) {
        if (conn->head_size >= HEAD - 1) die("head too large");
        return size;
    }
    *is_whole = 1;
    end[2] = 0;
    if (strncmp(conn->head, "HTTP/1.1 200", 12)) other++;
    for (char *letter = conn->head; *letter; letter++)
        if (*letter >= 'A' && *letter <= 'Z') *letter |= 32;
    if ((value = strstr(conn->head, "\r\ncontent-length:"))) {
        conn->state = BY_LENGTH;
        conn->left = strtoul(value + 17, NULL, 10);
    } else if (strstr(conn->head, "\r\ntransfer-encoding: chunked") || strstr(conn->head, "\r\ntransfer-encoding:chunked")) {
        conn->state = CHUNK_SIZE;
        conn->left = conn->has_digits = 0;
    } else {
        conn->state = UNTIL_CLOSE;
    }
    return (size_t)(end + 4 - conn->head) - before;
}

static void count_events(conn_t *conn, const char *data, size_t size) {
    const char *at = data, *end = data + size;
    if (conn->has_newline && *data == '\n') events_seen++;
    while ((at = memchr(at, '\n', (size_t)(end - at)))) {
        if (at + 1 < end && at[1] == '\n') events_seen++;
        at++;
    }
    conn->has_newline = end[-1] == '\n';
}

/* Follows an answer's framing; returns 1 when it is whole (nothing may follow: one request at a time). */
static int take_body(conn_t *conn, const char *data, size_t size) {
    size_t at = 0;
    while (at < size) {
        size_t rest = size - at, take;
        switch (conn->state) {
        case BY_LENGTH:
            take = rest < conn->left ? rest : conn->left;
            conn->left -= take;
            return conn->left == 0;
        case CHUNK_SIZE: {
            char letter = data[at++];
            if (letter == '\n') {
                conn->state = conn->left ? CHUNK_DATA : TRAILER;
                conn->line = 0;
                conn->has_digits = 0;
            } else if (letter != '\r' && conn->has_digits != 2) {
                int digit = letter >= '0' && letter <= '9' ? letter - '0' : (letter | 32) >= 'a' && (letter | 32) <= 'f' ? (letter | 32) - 'a' + 10 : -1;
                if (digit < 0) {
                    conn->has_digits = 2; /* an extension */
                } else {
                    conn->left = (conn->has_digits ? conn->left : 0) * 16 + (size_t)digit;
                    conn->has_digits = 1;
                }
            }
            break;
        }
        case CHUNK_DATA:
            take = rest < conn->left ? rest : conn->left;
            count_events(conn, data + at, take);
            conn->left -= take;
            at += take;
            if (!conn->left) conn->state = CHUNK_END;
            break;
        case CHUNK_END:
            if (data[at++] == '\n') conn->state = CHUNK_SIZE;
            break;
        case TRAILER: {
            char letter = data[at++];
            if (letter == '\n') {
                if (conn->line == 0) return 1;
                conn->line = 0;
            } else if (letter != '\r') {
                conn->line++;
            }
            break;
        }
        default:
            count_events(conn, data + at, rest);
            return 0;
        }
    }
    return conn->state == BY_LENGTH && conn->left == 0;
}

static void on_readable(conn_t *conn) {
    ssize_t got = recv(conn->fd, buffer, sizeof buffer, 0);
    size_t from = 0;
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        if (got == 0 && conn->state == UNTIL_CLOSE) {
            close_connection(conn);
            end_answer(conn);
        } else {
            break_off(conn);
        }
        return;
    }
    bytes += (uint64_t)got;
    conn->has_read = 1;
    if (conn->state == IN_HEAD) {
        int is_whole = 0;
        from = take_head(conn, buffer, (size_t)got, &is_whole);
        if (!is_whole) return;
        if (conn->state == BY_LENGTH && conn->left == 0) {
            end_answer(conn);
            return;
        }
    }
    if (from < (size_t)got && take_body(conn, buffer + from, (size_t)got - from)) {
        if (strstr(conn->head, "\r\nconnection: close")) close_connection(conn);
        end_answer(conn);
    }
}

static void read_request(const char *path) {
    FILE *file = fopen(path, "rb");
    long size;
    if (!file || fseek(file, 0, SEEK_END) || (size = ftell(file)) <= 0) die(path);
    rewind(file);
    request_size = (size_t)size;
    request = malloc(request_size);
    if (!request || fread(request, 1, request_size, file) != request_size) die(path);
    fclose(file);
}

/* 1: told to stop. */
static int on_command(void) {
    char line[64];
    ssize_t got = read(0, line, sizeof line);
    if (got < 0 && errno == EAGAIN) return 0;
    if (got <= 0) {
        epoll_ctl(epoll, EPOLL_CTL_DEL, 0, NULL);
        return wanted == 0;
    }
    if (got >= 4 && !memcmp(line, "stop", 4)) return 1;
    tell(0);
    return 0;
}

int main(int count, char **words) {
    struct epoll_event events[EVENTS], input = {.events = EPOLLIN, .data.ptr = NULL};
    conn_t *conns;
    int connections, timer, opened = 0;
    long spread_us;
    if (count != 5 && count != 6) {
        fprintf(stderr, "load PORT CONNECTIONS REQUESTS REQUEST_FILE [SPREAD_US]\n");
        return 2;
    }
    more_files();
    port = atoi(words[1]);
    connections = atoi(words[2]);
    wanted = atol(words[3]);
    read_request(words[4]);
    spread_us = count == 6 ? atol(words[5]) : 0;
    conns = calloc((size_t)connections, sizeof *conns);
    times = malloc(MAX_TIMES * sizeof *times);
    if (!conns || !times) die("memory");
    epoll = epoll_create1(EPOLL_CLOEXEC);
    epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &input); /* a file cannot be watched, and then there are no commands */
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    started_at = now_ns();
    busy = connections;
    if (spread_us) {
        struct itimerspec every = {{spread_us / 1000000, spread_us % 1000000 * 1000}, {0, 1}};
        timerfd_settime(timer, 0, &every, NULL);
        watch(epoll, EPOLL_CTL_ADD, timer, EPOLLIN, &timer);
    } else {
        for (; opened < connections; opened++) {
            conns[opened].fd = -1;
            begin_request(&conns[opened]);
        }
    }
    while (busy) {
        int ready = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            conn_t *conn = events[i].data.ptr;
            if (!conn) {
                if (on_command()) busy = 0;
            } else if (events[i].data.ptr == &timer) {
                uint64_t ticks = 0;
                if (read(timer, &ticks, sizeof ticks) != sizeof ticks) continue;
                for (; ticks && opened < connections; ticks--, opened++) {
                    conns[opened].fd = -1;
                    begin_request(&conns[opened]);
                }
                if (opened == connections) epoll_ctl(epoll, EPOLL_CTL_DEL, timer, NULL);
            } else if (conn->fd >= 0) {
                if (conn->is_writing && (events[i].events & EPOLLOUT)) send_request(conn);
                if (conn->fd >= 0 && (events[i].events & ~(uint32_t)EPOLLOUT)) on_readable(conn);
            }
        }
    }
    tell(1);
    return 0;
}
