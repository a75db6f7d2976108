-- A streamed chat of 20 chunks. wrk counts whole streams.
--     wrk -t1 -c64 -d5s -s benchmarks/wrk/sse.lua http://127.0.0.1:9080
package.path = "benchmarks/wrk/?.lua;" .. package.path
local report = require("report")

wrk.method, wrk.path, wrk.headers = "POST", report.path, report.headers
wrk.body = report.chat("Count to twenty.", ',"stream":true,"max_tokens":20')
done = report.done
