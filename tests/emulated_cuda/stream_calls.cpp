// The driver's interface: streams, events and graphs.

#include "calls.h"
#include <memory>

using namespace emulated_cuda;

API cuStreamCreate(void **stream, unsigned flags) {
    return call([&] { return *stream = create_stream(!(flags & 1)), success; });
}
API cuStreamCreateWithPriority(void **stream, unsigned flags, int) { return cuStreamCreate(stream, flags); }
API cuStreamDestroy_v2(void *stream) {
    return call([&] { return stream_of(stream).run_to(stream_of(stream).queued); });
}
API cuStreamSynchronize(void *stream) {
    return blocking_call([&] {
        Stream &s = stream_of(stream);
        return s.capture ? unsupported_in_capture : s.run_to(s.queued);
    });
}
API cuStreamQuery(void *stream) {
    return blocking_call([&] {
        Stream &s = stream_of(stream);
        if (s.done == s.queued) return int(success);
        // Each query runs a little more work, so that polling ends.
        int code = s.run_to(s.done + 1);
        return code ? code : int(not_ready);
    });
}
API cuStreamWaitEvent(void *stream, void *event, unsigned) {
    return call([&] { return wait(stream_of(stream), *static_cast<Event *>(event)); });
}

API cuEventCreate(void **event, unsigned) {
    return call([&] { return *event = create_event(), success; });
}
API cuEventDestroy_v2(void *) { return success; }
API cuEventRecord(void *event, void *stream) {
    // Counts down to the record that fails.
    static int until_failure = number("EMULATED_CUDA_FAIL_RECORD", 0);
    if (until_failure && !--until_failure) return say(not_supported, "this event is not recorded, as a test wished");
    return call([&] { return record(*static_cast<Event *>(event), stream_of(stream)); });
}
API cuEventRecordWithFlags(void *event, void *stream, unsigned) { return cuEventRecord(event, stream); }
API cuEventSynchronize(void *event) {
    return blocking_call([&] {
        auto &e = *static_cast<Event *>(event);
        return e.reached() ? 0 : e.stream->run_to(e.position);
    });
}
API cuEventQuery(void *event) {
    return blocking_call([&] {
        auto &e = *static_cast<Event *>(event);
        if (e.reached()) return int(success);
        int code = e.stream->run_to(e.stream->done + 1);
        return code ? code : int(not_ready);
    });
}
API cuEventElapsedTime_v2(float *milliseconds, void *start, void *end) {
    return call([&] {
        auto &from = *static_cast<Event *>(start), &to = *static_cast<Event *>(end);
        if (!from.stream || !to.stream) return invalid_value;
        if (!from.reached() || !to.reached()) return not_ready;
        return *milliseconds = std::chrono::duration<float, std::milli>(to.time - from.time).count(), success;
    });
}
API cuEventElapsedTime(float *milliseconds, void *start, void *end) { return cuEventElapsedTime_v2(milliseconds, start, end); }

// ---- graphs -------------------------------------------------------------------------------------

API cuStreamBeginCapture_v2(void *stream, int mode) {
    return call([&] { return begin_capture(stream_of(stream), mode); });
}
API cuStreamEndCapture(void *stream, void **graph) {
    return call([&] {
        auto captured = std::make_unique<Graph>();
        *graph = nullptr;
        int code = end_capture(stream_of(stream), captured.get());
        if (!code) *graph = captured.release();
        return code;
    });
}
API cuStreamIsCapturing(void *stream, int *status) {
    return call([&] {
        const auto &capture = stream_of(stream).capture;
        return *status = !capture ? 0 : capture->broken ? 2 : 1, success;
    });
}
API cuThreadExchangeStreamCaptureMode(int *) { return say(not_supported, "changing a thread's capture mode is not emulated"); }
API cuGraphGetNodes(void *graph, void **nodes, std::size_t *count) {
    return call([&] {
        if (nodes) return say(not_supported, "naming a graph's nodes is not emulated");
        return *count = static_cast<Graph *>(graph)->nodes.size(), int(success);
    });
}
API cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long) {
    return call([&] { return *executable = new std::shared_ptr<Graph>(new Graph(*static_cast<Graph *>(graph))), success; });
}
API cuGraphLaunch(void *executable, void *stream) {
    return call([&] {
        return stream_of(stream).enqueue([graph = *static_cast<std::shared_ptr<Graph> *>(executable)] {
            for (const Work &node : graph->nodes)
                if (int code = node()) return code;
            return 0;
        });
    });
}
API cuGraphDestroy(void *graph) {
    return call([&] { return delete static_cast<Graph *>(graph), success; });
}
API cuGraphExecDestroy(void *executable) {
    return call([&] { return delete static_cast<std::shared_ptr<Graph> *>(executable), success; });
}
