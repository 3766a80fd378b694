// Streams, events and graphs. A stream runs its work at the latest moment that the API allows: when
// somebody waits for it. What a program forgot to wait for is thereby never there in time.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <vector>

namespace emulated_cuda {

/// Returns the driver's error code, 0 for none.
using Work = std::function<int()>;

/// Work in the order in which it was captured.
struct Graph {
    std::vector<Work> nodes;
};

/// A capture in progress: its stream, and the streams that have joined.
struct Capture {
    Graph graph;
    struct Stream *origin;
    std::set<struct Stream *> joined;
    int mode;
    bool broken = false;
};

struct Stream {
    /// Waits for the legacy default stream, and it for this one.
    bool blocking;
    unsigned long long queued = 0, done = 0;
    std::deque<Work> queue;
    std::shared_ptr<Capture> capture;

    /// Runs what was queued before `position`; the first error that the device ever had stays.
    int run_to(unsigned long long position);
    /// Runs what is queued, or keeps it where the stream is captured.
    int enqueue(Work work);
};

struct Event {
    Stream *stream = nullptr;
    unsigned long long position = 0;
    std::shared_ptr<Capture> capture;
    std::chrono::steady_clock::time_point time;

    bool reached() const { return !stream || stream->done >= position; }
};

/// Streams and events live as long as the process: queued work may name them after their program
/// has let them go.
Stream *create_stream(bool blocking);
Event *create_event();
Stream *legacy_stream();
/// Runs what every stream has queued.
int run_all();
/// The error that no call after it gets past, 0 for none; `fail` sets it if it is the first.
int sticky_error();
int fail(int code);

/// Begins to capture the stream; ends it, with what was captured.
int begin_capture(Stream &stream, int mode);
int end_capture(Stream &stream, Graph *graph);
/// An error where the calling thread may not do what could wait, since it captures; that breaks the
/// capture.
int forbid_in_capture();

int record(Event &event, Stream &stream);
int wait(Stream &stream, Event &event);

} // namespace emulated_cuda
