// Streams, events and graphs. A stream runs its work at the latest moment that the API allows, when
// the program waits for it. Data whose wait is missing in the program is therefore never ready.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <vector>

namespace emulated_cuda {

/// Returns the driver's error code, 0 for success.
using Work = std::function<int()>;

/// The captured work, in capture order.
struct Graph {
    std::vector<Work> nodes;
};

/// A capture in progress: its stream, and the streams that have joined it.
struct Capture {
    Graph graph;
    struct Stream *origin;
    std::set<struct Stream *> joined;
    int mode;
    bool broken = false;
};

struct Stream {
    /// True if this stream and the legacy default stream synchronize with each other.
    bool blocking;
    unsigned long long queued = 0, done = 0;
    std::deque<Work> queue;
    std::shared_ptr<Capture> capture;

    /// Runs the work queued before `position`; the first error of the device persists.
    int run_to(unsigned long long position);
    /// Runs queued work, or records it if the stream is capturing.
    int enqueue(Work work);
};

struct Event {
    Stream *stream = nullptr;
    unsigned long long position = 0;
    std::shared_ptr<Capture> capture;
    std::chrono::steady_clock::time_point time;

    bool reached() const { return !stream || stream->done >= position; }
};

/// Streams and events live as long as the process: queued work may refer to them after the program
/// has destroyed them.
Stream *create_stream(bool blocking);
Event *create_event();
Stream *legacy_stream();
/// Runs the queued work of every stream.
int run_all();
/// The sticky error of the device, 0 for none; `fail` sets it if it is the first.
int sticky_error();
int fail(int code);

/// Begins a capture of the stream, or ends it and returns the captured graph.
int begin_capture(Stream &stream, int mode);
int end_capture(Stream &stream, Graph *graph);
/// Returns an error if the calling thread is capturing and may therefore not make a call that could
/// wait; such a call invalidates the capture.
int forbid_in_capture();

int record(Event &event, Stream &stream);
int wait(Stream &stream, Event &event);

} // namespace emulated_cuda
