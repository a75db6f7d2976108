import cython

from ..routing cimport Route, RouteTable
from ..wire.client_connection cimport ClientConnection
from ..wire.head cimport RequestHead, numbered
from .exchange cimport Exchange
from .exchanges cimport Exchanges
from .plan cimport RoutePlan


cdef class Dispatcher:
    cdef public Exchanges exchanges
    cdef public RouteTable table
    cdef public object on_answered
    cdef public bint errors_like_apisix
    cdef public object refusal
    cdef long long _requests
    cdef bytes _id_prefix
    cdef object __weakref__

    @cython.locals(route=Route, plan=RoutePlan, exchange=Exchange, now=double, request_id=bytes, target=bytes)
    cpdef accept(self, ClientConnection connection, RequestHead head)
    cdef bytes _new_id(self)
    @cython.locals(given=bytes)
    cdef bytes _request_id(self, RequestHead head)
