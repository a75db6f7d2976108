-- A chat request of 300 bytes, answered at once.
--     wrk -t1 -c64 -d5s -s benchmarks/wrk/plain.lua http://127.0.0.1:9080
package.path = "benchmarks/wrk/?.lua;" .. package.path
local report = require("report")

wrk.method, wrk.path, wrk.headers = "POST", report.path, report.headers
wrk.body = report.chat(string.rep("Tell me how a gateway decides which node gets a request. ", 9):sub(1, 300 - 68))
done = report.done
