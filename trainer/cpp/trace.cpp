// Which operators a thread runs, with shapes and numbers, as libtorch reports them to profilers.
#include <ATen/record_function.h>

#include <memory>
#include <sstream>
#include <string>

#include "shim.h"

namespace {

struct Trace {
    std::ostringstream lines;
    int64_t depth = 0;
};

// Callbacks have no data of their own. Those of a thread are called on it alone.
thread_local std::unique_ptr<Trace> tracing;

void describe(std::ostream &out, const c10::IValue &value) {
    if (value.isTensor()) {
        const auto &tensor = value.toTensor();
        if (!tensor.defined()) {
            out << "undefined";
            return;
        }
        out << tensor.scalar_type() << tensor.sizes();
        // A number that was made a tensor for the operator.
        if (tensor.unsafeGetTensorImpl()->is_wrapped_number()) {
            if (tensor.scalar_type() == at::kDouble) out << '=' << *tensor.const_data_ptr<double>();
            if (tensor.scalar_type() == at::kLong) out << '=' << *tensor.const_data_ptr<int64_t>();
        }
    } else if (value.isDouble()) {
        out << value.toDouble();
    } else if (value.isInt()) {
        out << value.toInt();
    } else if (value.isBool()) {
        out << (value.toBool() ? "true" : "false");
    } else if (value.isNone()) {
        out << "none";
    } else if (value.isDevice()) {
        out << value.toDevice();
    } else if (value.isString()) {
        out << value.toStringRef();
    } else if (value.isList()) {
        out << '(';
        for (const c10::IValue &each : value.toListRef()) {
            describe(out, each);
            out << ' ';
        }
        out << ')';
    } else {
        out << value.tagKind();
    }
}

// Counts an operator out when it ends.
struct Running : at::ObserverContext {
    ~Running() override {
        if (tracing) tracing->depth--;
    }
};

std::unique_ptr<at::ObserverContext> started(const at::RecordFunction &function) {
    if (!tracing) return nullptr;
    std::ostringstream line;
    line.precision(17);
    line << tracing->depth << '\t' << function.name() << '\t';
    for (const auto &input : function.inputs()) {
        describe(line, input);
        line << ", ";
    }
    tracing->lines << line.str() << '\n';
    tracing->depth++;
    return std::make_unique<Running>();
}

}  // namespace

// Traces this thread's operators from now on. One trace at a time.
extern "C" char *distillery_trace_begin(uint64_t *handle) {
    return guarded([&] {
        tracing = std::make_unique<Trace>();
        at::RecordFunctionCallback callback(started);
        callback.needsInputs(true).scopes({at::RecordScope::FUNCTION});
        *handle = at::addThreadLocalCallback(callback);
    });
}

// Ends a trace. `lines`, which the caller frees, has a line for each operator, in the order in which they began: how
// many others it is part of, its name and its arguments, with tabs between.
extern "C" char *distillery_trace_end(uint64_t handle, char **lines) {
    return guarded([&] {
        at::removeCallback(handle);
        const auto ended = std::move(tracing);
        *lines = strdup(ended ? ended->lines.str().c_str() : "");
    });
}
