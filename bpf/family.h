/* Everything that holds addresses, for the family in FAMILY; included once for each. */
#undef F
#undef F_NAME
#if FAMILY == 4
#define F(name) name##4
#define F_NAME(name) name "4"
#else
#define F(name) name##6
#define F_NAME(name) name "6"
#endif
#include "family_types.h"
#include "family_maps.h"
#if FAMILY == 4
#include "ipv4.h"
#else
#include "ipv6.h"
#endif
#include "transport.h"
#include "lookup.h"
#include "service.h"
#include "conntrack.h"
#include "decision.h"
#include "path.h"
