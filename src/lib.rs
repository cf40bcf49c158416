//! Client-side load balancing and service discovery for `tower`.
