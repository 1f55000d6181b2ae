//! Generated messages and service (proto/podvm), made by build.rs.

#[allow(clippy::all, missing_docs)]
pub mod agent {
    pub mod v1 {
        tonic::include_proto!("agent.v1");
    }
}

#[allow(clippy::all, missing_docs)]
pub mod oci {
    pub mod v1 {
        tonic::include_proto!("oci.v1");
    }
}
