#include "streams.h"
#include <cstdlib>
#include <list>

namespace emulated_cuda {
namespace {

constexpr int unsupported_in_capture = 900, capture_invalidated = 901, capture_unmatched = 903,
              capture_isolation = 905, illegal_state = 401;
constexpr int relaxed = 2;

std::list<Stream> streams;
std::list<Event> events;
int error = 0;
/// The captures in progress on this host thread.
thread_local std::set<std::shared_ptr<Capture>> captures;

bool at_once() {
    static const bool wanted = [] {
        const char *text = std::getenv("CUDA_LAUNCH_BLOCKING");
        return text && *text == '1';
    }();
    return wanted;
}

} // namespace

int sticky_error() { return error; }
int fail(int code) { return error ? error : error = code; }

int Stream::run_to(unsigned long long position) {
    while (done < position) {
        Work work = std::move(queue.front());
        queue.pop_front();
        // The position advances first: work that waits for another stream may return to this one.
        done++;
        if (!error)
            if (int code = work()) fail(code);
    }
    return error;
}

int Stream::enqueue(Work work) {
    if (error) return error;
    if (capture) {
        capture->graph.nodes.push_back(std::move(work));
        return 0;
    }
    // The legacy default stream and the blocking streams synchronize with each other.
    auto after = [this](Stream &other) {
        if (other.done == other.queued || other.capture) return;
        queue.push_back([&other, position = other.queued] { return other.run_to(position); });
        queued++;
    };
    Stream *legacy = legacy_stream();
    if (this == legacy) {
        for (Stream &other : streams)
            if (&other != this && other.blocking) after(other);
    } else if (blocking) after(*legacy);
    queue.push_back(std::move(work));
    queued++;
    return at_once() ? run_to(queued) : 0;
}

Stream *create_stream(bool blocking) {
    streams.emplace_back();
    streams.back().blocking = blocking;
    return &streams.back();
}

Event *create_event() { return &events.emplace_back(); }

Stream *legacy_stream() {
    static Stream *const stream = create_stream(true);
    return stream;
}

int run_all() {
    for (Stream &stream : streams) stream.run_to(stream.queued);
    return error;
}

int begin_capture(Stream &stream, int mode) {
    if (stream.capture || &stream == legacy_stream()) return unsupported_in_capture;
    stream.capture = std::make_shared<Capture>();
    stream.capture->origin = &stream;
    stream.capture->joined = {&stream};
    stream.capture->mode = mode;
    captures.insert(stream.capture);
    return 0;
}

int end_capture(Stream &stream, Graph *graph) {
    if (!stream.capture) return illegal_state;
    std::shared_ptr<Capture> capture = stream.capture;
    if (capture->origin != &stream) return capture_unmatched;
    captures.erase(capture);
    for (Stream *joined : capture->joined) joined->capture = nullptr;
    if (capture->broken) return capture_invalidated;
    *graph = std::move(capture->graph);
    return 0;
}

int forbid_in_capture() {
    for (const auto &capture : captures)
        if (capture->mode != relaxed) {
            capture->broken = true;
            return unsupported_in_capture;
        }
    return 0;
}

int record(Event &event, Stream &stream) {
    event.capture = stream.capture;
    if (stream.capture) return 0;
    int code = stream.enqueue([&event] {
        event.time = std::chrono::steady_clock::now();
        return 0;
    });
    event.stream = &stream;
    event.position = stream.queued;
    return code;
}

int wait(Stream &stream, Event &event) {
    if (event.capture) {
        if (stream.capture && stream.capture != event.capture) return capture_isolation;
        // A stream that waits for a captured event joins the capture; nodes keep the order of their
        // calls.
        stream.capture = event.capture;
        event.capture->joined.insert(&stream);
        return 0;
    }
    if (stream.capture) return capture_isolation;
    if (event.reached()) return 0;
    return stream.enqueue([other = event.stream, position = event.position] { return other->run_to(position); });
}

} // namespace emulated_cuda
