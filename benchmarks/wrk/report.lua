-- What every script shares: a last line of JSON with the figures of the run.
local report = {}

function report.done(summary, latency, _)
    local errors = summary.errors
    io.write(string.format(
        '{"requests": %d, "seconds": %.6f, "bytes": %d, "p50_us": %d, "p90_us": %d, "p99_us": %d, "max_us": %d, ' ..
        '"other": %d, "broken": %d, "timeouts": %d}\n',
        summary.requests, summary.duration / 1e6, summary.bytes,
        latency:percentile(50), latency:percentile(90), latency:percentile(99), latency.max,
        errors.status, errors.connect + errors.read + errors.write, errors.timeout))
end

function report.chat(content, more)
    return '{"model":"gpt-5.2","messages":[{"role":"user","content":"' .. content .. '"}]' .. (more or "") .. '}'
end

report.path = "/v1/chat/completions"
report.headers = { ["Content-Type"] = "application/json", ["Accept"] = "application/json" }

return report
