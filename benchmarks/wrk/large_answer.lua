-- A small request whose answer has 64 KB.
--     wrk -t1 -c16 -d5s -s benchmarks/wrk/large_answer.lua http://127.0.0.1:9080
package.path = "benchmarks/wrk/?.lua;" .. package.path
local report = require("report")

wrk.method, wrk.path, wrk.headers = "POST", "/v1/responses", report.headers
wrk.body = '{"model":"gpt-5.2","input":"' .. string.rep("word ", 52) .. '"}'
done = report.done
